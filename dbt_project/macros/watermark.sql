{#-
    The LSN from which a model takes up changes: the last that it holds, whose transaction may
    have landed in part. Taken as a number, not as a subquery, so that it prunes files.
    `dbt build --vars 'replay_from: 123'` takes up what came since 123 once more, and writes it even
    where it seems to be there: after a new snapshot, a new column, a changed rule.
-#}
{% macro watermark(column='_prior_commit_lsn') -%}
    {%- if not (execute and is_incremental()) -%} {{- return(-1) -}} {%- endif -%}
    {%- set reached = scalar('select max(' ~ column ~ ') from ' ~ this, -1) -%}
    {%- set replay = var('replay_from') -%}
    {{- return(reached if replay is none else [reached, replay | int] | min) -}}
{%- endmacro %}


{#-
    Whether a row that was landed is new to a model whose watermark is `since`. Of the transaction at
    the watermark the model may have but a part, of a bulk snapshot it has all or nothing.
-#}
{% macro is_new(since) -%}
    _prior_commit_lsn >= {{ since }}
    and (_prior_commit_lsn > {{ since }} or _committed_at is not null)
{%- endmacro %}


{#- The LSN of a source table's newest bulk snapshot; 0 where there is none. -#}
{% macro newest_snapshot(table) -%}
    {%- set bulk = source('bronze', table) -%}
    {{- return(scalar('select max(_snapshot_lsn) from ' ~ bulk, 0) if execute else 0) -}}
{%- endmacro %}


{#- One number out of the lake; `otherwise` where there is none, or dbt compiles without the lake. -#}
{% macro scalar(query, otherwise) -%}
    {%- if flags.INTROSPECT is false -%} {{- return(otherwise) -}} {%- endif -%}
    {%- set found = run_query(query).columns[0].values()[0] -%}
    {{- return(otherwise if found is none else found | int) -}}
{%- endmacro %}
