{#-
    Every version of a declared source table's rows, typed, in the order of the WAL: sort by
    `_prior_commit_lsn`, then `_lsn`. The newest bulk snapshot comes first, as operation 'r', then
    the changes since it: 'c', 'u', and 'd' with the row as it was before. A snapshot of no rows is
    one in bronze that has no values, its key least of all.

    since: a watermark, only what is new since then (`is_new`); snapshot: the newest one's LSN, if known.
-#}
{% macro changelog(table, since=-1, snapshot=none) -%}
    {%- set bulk, changes = source('bronze', table), source('bronze', 'changes') -%}
    {%- set declared = declared_table(table) -%}
    {%- set taken = newest_snapshot(table) if snapshot is none else snapshot -%}
    select
        {{ names(declared.columns) }},
        'r' as _op,
        _snapshot_lsn - 1 as _lsn,
        _snapshot_lsn - 1 as _prior_commit_lsn,
        cast(null as {{ engine_type('timestamptz') }}) as _committed_at,
        _ingested_at
    from {{ bulk }}
    where
        _snapshot_lsn = {{ taken }}
        and _snapshot_lsn - 1 > {{ since }}
        and {{ quoted(declared.key[:1]) }} is not null
    union all
    select
        {%- for column in declared.columns %}
        {{ from_wire('image.' ~ adapter.quote(column.name), column.type) }} as {{ adapter.quote(column.name) }},
        {%- endfor %}
        _op,
        _lsn,
        _prior_commit_lsn,
        _committed_at,
        _ingested_at
    from (
        select
            change.op as _op,
            case change.op when 'd' then change.before else change.after end as image,
            _lsn,
            _prior_commit_lsn,
            _committed_at,
            _ingested_at
        from (
            select
                {{ typed_envelope('envelope', declared.columns) }} as change,
                lsn as _lsn,
                greatest(prior_commit_lsn, {{ taken - 1 }}) as _prior_commit_lsn,
                committed_at as _committed_at,
                ingested_at as _ingested_at
            from {{ changes }}
            where
                source_table = '{{ declared.source_table }}'
                and {{ committed_since(since, taken) }}
        ) as envelopes
    ) as images
    where case
        when _op in ('c', 'u', 'd') then true
        else {{ halt(declared.source_table ~ ' was truncated: run `lake ingest --again ' ~ declared.source_table ~ '`') }}
    end
{%- endmacro %}


{#- A condition that ends the query with a message; what follows would be wrong. -#}
{% macro halt(message) -%} {{ adapter.dispatch('halt')(message) }} {%- endmacro %}
{% macro spark__halt(message) -%} cast(raise_error('{{ message }}') as boolean) {%- endmacro %}
{% macro trino__halt(message) -%} cast(fail('{{ message }}') as boolean) {%- endmacro %}


{#-
    What a snapshot does not hold was committed after it: so is a transaction with a change, or a
    predecessor, at or past the snapshot's LSN. (One that began before may have changes below it.)
-#}
{% macro committed_since(since, snapshot) -%}
    {%- if since >= snapshot -%} prior_commit_lsn >= {{ since }}
    {%- else -%} (lsn >= {{ snapshot }} or prior_commit_lsn >= {{ snapshot }})
    {%- endif -%}
{%- endmacro %}


{#-
    The rows that a new snapshot no longer has, as deletes at its LSN: they went while nobody
    watched. `current` is a relation of current rows that has the key and `_prior_commit_lsn`. To be
    put after a select; it is nothing where no row is older than the snapshot, which metadata tells:
    engines would read the whole snapshot to find that out.
-#}
{% macro vanished(table, current, snapshot, condition='true') -%}
    {%- set bulk, declared = source('bronze', table), declared_table(table) -%}
    {%- set older = condition ~ ' and _prior_commit_lsn < ' ~ (snapshot - 1) -%}
    {%- if scalar('select max(1) from ' ~ current ~ ' where ' ~ older, 0) %}
    union all
    select
        {{ names(declared.columns) }},
        'd' as _op,
        cast({{ snapshot - 1 }} as bigint) as _lsn,
        cast({{ snapshot - 1 }} as bigint) as _prior_commit_lsn,
        cast(null as {{ engine_type('timestamptz') }}) as _committed_at,
        (select max(_ingested_at) from {{ bulk }} where _snapshot_lsn = {{ snapshot }}) as _ingested_at
    from {{ current }} as known
    where
        {{ older }}
        and not exists (
            select 1 from {{ bulk }} as held
            where
                held._snapshot_lsn = {{ snapshot }}
                and {{ same_key(declared.key, 'held', 'known') }}
        )
    {%- endif -%}
{%- endmacro %}


{#- What the project declares of a source table: `source_table`, `key`, and `columns` in order. -#}
{% macro declared_table(name) -%}
    {%- set table = {'source_table': name, 'key': [], 'columns': []} -%}
    {%- set nodes = graph.sources.values() if execute else [] -%}
    {%- for node in nodes if node.source_name == 'bronze' and node.name == name -%}
        {%- do table.update(source_table=node.config.meta.source_table, key=node.config.meta.key) -%}
        {%- for column in node.columns.values() -%}
            {%- do table.columns.append({'name': column.name, 'type': canonical_type(column.data_type)}) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{- return(table) -}}
{%- endmacro %}


{#- The names of a declared table's columns, comma-separated, in order. -#}
{% macro columns_of(table, without=[]) -%}
    {{- names(declared_table(table).columns | rejectattr('name', 'in', without) | list) -}}
{%- endmacro %}

{% macro names(columns) -%}
    {%- for column in columns -%}
        {{ adapter.quote(column.name) }}{{ ',\n        ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{#- The names of columns as SQL, of a relation where one is named; and that two agree in them. -#}
{% macro quoted(columns, of=none) -%}
    {%- for column in columns -%}
        {{ of ~ '.' if of }}{{ adapter.quote(column) }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}

{% macro same_key(columns, one, other) -%}
    {%- for column in columns -%}
        {{ one }}.{{ adapter.quote(column) }} = {{ other }}.{{ adapter.quote(column) }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
