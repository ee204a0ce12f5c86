{#-
    The commit LSN up to which a model has taken everything up. Taken as a number, not as a subquery,
    so that it prunes files.
    `dbt build --vars 'replay_from: 123'` takes up what came since 123 once more, and writes it even
    where it seems to be there: after a new snapshot, a new column, a changed rule.
-#}
{% macro watermark(column='_commit_lsn') -%}
    {%- if not (execute and is_incremental()) -%} {{- return(-1) -}} {%- endif -%}
    {%- set reached = scalar('select max(' ~ column ~ ') from ' ~ this, -1) -%}
    {%- set replay = replay_from() -%}
    {{- return(reached if replay is none else [reached, replay | int] | min) -}}
{%- endmacro %}


{#-
    The LSN from which this model takes up once more what it has taken up already; none usually. It is
    what a person asks for, or -1 where `lake build` has found that the model's code has changed.
-#}
{% macro replay_from() -%}
    {%- set is_changed = execute and model.name in env_var('LAKE_REPLAYED', '').split() -%}
    {{- return(-1 if is_changed else var('replay_from')) -}}
{%- endmacro %}


{#-
    Whether this model is made anew: a model's own config may say, or whoever runs dbt says it of all, or
    `lake build` has found that its code has changed. dbt's macros ask this one.
-#}
{% macro should_full_refresh() -%}
    {%- set configured = config.get('full_refresh') -%}
    {{- return(is_rebuilt() or (flags.FULL_REFRESH if configured is none else configured)) -}}
{%- endmacro %}

{% macro is_rebuilt() -%}
    {{- return(execute and model.name in env_var('LAKE_REBUILT', '').split()) -}}
{%- endmacro %}


{#- Whether a row that was landed is new to a model whose watermark is `since`. -#}
{% macro is_new(since) -%} _commit_lsn > {{ since }} {%- endmacro %}


{#- The LSN of a source table's newest bulk snapshot, which holds the transactions below it; 0 without one. -#}
{% macro newest_snapshot(table) -%}
    {%- set bulk = source('bronze', table) -%}
    {{- return(landed_scalar('select max(_snapshot_lsn) from ' ~ bulk, 0) if execute else 0) -}}
{%- endmacro %}


{#-
    The commit LSN up to which every captured transaction is in bronze whole; -1 where none is. On a
    branch it stands still, so it is asked for once in an invocation, and kept with dbt's graph.
-#}
{% macro complete_lsn() -%}
    {%- if not execute -%} {{- return(-1) -}} {%- endif -%}
    {%- if 'complete_lsn' not in graph and flags.INTROSPECT is not false -%}
        {%- set query = adapter.dispatch('complete_lsn_query')(source('bronze', 'changes')) -%}
        {%- set values = run_query(query).columns[-1].values() -%}
        {%- set number = values and modules.re.fullmatch('[0-9]+', values[0]) -%} {#- Spark says in words that it has none -#}
        {%- do graph.update(complete_lsn=values[0] | int if number else -1) -%}
    {%- endif -%}
    {{- return(graph.get('complete_lsn', -1)) -}}
{%- endmacro %}

{% macro spark__complete_lsn_query(changes) -%}
    show tblproperties {{ changes }} ('lake.complete-lsn')
{%- endmacro %}
{% macro trino__complete_lsn_query(changes) -%}
    select value from {{ changes.database }}.{{ changes.schema }}."{{ changes.identifier }}$properties"
    where key = 'lake.complete-lsn'
{%- endmacro %}


{#- One number out of the lake; `otherwise` where there is none, or dbt compiles without the lake. -#}
{% macro scalar(query, otherwise) -%}
    {%- if flags.INTROSPECT is false -%} {{- return(otherwise) -}} {%- endif -%}
    {%- set found = run_query(query).columns[0].values()[0] -%}
    {{- return(otherwise if found is none else found | int) -}}
{%- endmacro %}


{#- The same of a query that reads bronze alone, which stands still on a branch: asked once in an invocation. -#}
{% macro landed_scalar(query, otherwise) -%}
    {%- set known = graph.setdefault('landed_scalars', {}) -%}
    {%- if query not in known -%} {%- do known.update({query: scalar(query, otherwise)}) -%} {%- endif -%}
    {{- return(known[query]) -}}
{%- endmacro %}
