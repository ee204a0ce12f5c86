{#-
    A source table without a key, whose REPLICA IDENTITY is FULL: each distinct row as it is now, and in
    `_copies` how many times it is there. `_row_hash` names a row by its values, on either engine alike; it
    is the model's `unique_key`. The position is that of the last change of one of the copies.
    A replay, and a new snapshot, take everything since the snapshot up anew.
-#}
{% macro multiset(table) -%}
{%- set declared, snapshot = declared_table(table), newest_snapshot(table) -%}
{%- set since = watermark() if replay_from() is none else -1 -%}
{%- set truncated = 'truncate' in change_kinds(table, since, snapshot) -%}
{%- set anew = truncated or since < snapshot - 1 -%} {#- what is there already counts for nothing -#}
with landed as (
    select
        {{ names(declared.columns) }},
        1 as _delta,
        _snapshot_lsn - 1 as _commit_lsn,
        cast(0 as bigint) as _ordinal,
        cast(null as {{ engine_type('timestamptz') }}) as _committed_at,
        _ingested_at
    from {{ source('bronze', table) }}
    where
        _snapshot_lsn = {{ snapshot }}
        and _snapshot_lsn - 1 > {{ since }}
        and coalesce(_unheld, '') <> '{}' -- which stands for a snapshot of no rows
    {%- for image, op, delta in [('before', 'd', -1), ('after', 'c', 1)] %}
    union all
    select
        {%- for column in declared.columns %}
        {{ value_in('image', column) }} as {{ adapter.quote(column.name) }},
        {%- endfor %}
        {{ delta }} as _delta,
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at
    from (
        select
            {{ image_of(image) }} as image,
            commit_lsn as _commit_lsn,
            ordinal as _ordinal,
            committed_at as _committed_at,
            ingested_at as _ingested_at
        from {{ source('bronze', 'changes') }}
        where
            {{ landed_since(declared, since, snapshot) }}
            and op in ('u', '{{ op }}')
    ) as images
    {%- endfor %}
),

identified as (
    select
        landed.*,
        {{ row_hash(declared.columns) }} as _row_hash
    from landed
    {%- if truncated %}
    cross join (
        select
            max(commit_lsn) as truncated_lsn,
            max_by(ordinal, (commit_lsn, ordinal)) as truncated_ordinal
        from {{ source('bronze', 'changes') }}
        where
            {{ landed_since(declared, since, snapshot) }}
            and op = 't'
    ) as truncates
    where (_commit_lsn, _ordinal) > (truncated_lsn, truncated_ordinal)
    {%- endif %}
),

counted as (
    select
        identified.*,
        sum(_delta) over (
            partition by _row_hash order by _commit_lsn, _ordinal, _delta
            rows between unbounded preceding and current row
        ) as _sum,
        row_number() over (partition by _row_hash order by _commit_lsn desc, _ordinal desc, _delta desc) as _nth
    from identified
),

added as (
    select
        _row_hash,
        sum(_delta) as _total,
        min(_sum) as _lowest
    from counted
    group by _row_hash
),

copied as (
    select
        counted.*,
        {{ 'cast(0 as bigint)' if anew or not is_incremental() else 'coalesce(known._copies, 0)' }} as _known,
        added._total,
        added._lowest
    from counted
    inner join added on counted._row_hash = added._row_hash
    {%- if is_incremental() and not anew %}
    left join {{ this }} as known on counted._row_hash = known._row_hash
    {%- endif %}
    where counted._nth = 1
),

rows_now as (
    select
        {{ names(declared.columns) }},
        _row_hash,
        -- A row is never there fewer than no times: where the sum goes lower, copies that are gone by
        -- now were counted before the watermark, which the rows that are left have lowered.
        _known + _total - least(_known + _lowest, 0) as _copies,
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at
    from copied
),

latest as (
    select
        *,
        _copies = 0 as _deleted
    from rows_now
    {%- if is_incremental() and anew %}
    union all
    select
        {{ names(declared.columns) }},
        _row_hash,
        _copies,
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at,
        true as _deleted
    from {{ this }} as known
    where not exists (select 1 from rows_now where rows_now._row_hash = known._row_hash)
    {%- endif %}
)

select
    _row_hash,
    cast(_copies as bigint) as _copies,
    {{ names(declared.columns) }},
    _commit_lsn,
    _ordinal,
    _committed_at,
    _ingested_at
{{ from_merged('latest') }}
{%- endmacro %}


{#-
    The MD5 of a row's values, each with its column's name and its length; nulls are left out, so that a
    column that is declared later changes nothing of the rows that lack it. One lambda for columns of a
    type: Trino does not compile a single expression of hundreds of columns.
-#}
{% macro row_hash(columns) -%}
    {%- set typed, texts = [], [] -%}
    {%- for column in columns | sort(attribute='name') -%}
        {%- set is_text = engine_type(column.type) == engine_type('text') -%}
        {%- do typed.append({'name': column.name, 'type': 'text' if is_text else column.type}) -%}
    {%- endfor -%}
    {%- for type, group in typed | groupby('type') -%}
        {%- set names, values = [], [] -%}
        {%- for column in group -%}
            {%- do names.append(text_literal(column.name)) -%}
            {%- do values.append(adapter.quote(column.name)) -%}
        {%- endfor -%}
        {%- set text = printed('v', type) -%}
        {%- do texts.append(
            'array_join(zip_with(' ~ array_of(names) ~ ', ' ~ array_of(values)
            ~ ", (n, v) -> case when v is not null then n || '=' || cast(length(" ~ text ~ ') as '
            ~ engine_type('text') ~ ") || ':' || " ~ text ~ " end), '')"
        ) -%}
    {%- endfor -%}
    {{ adapter.dispatch('md5_of')(texts | join(' || ')) }}
{%- endmacro %}

{% macro spark__md5_of(text) -%} md5({{ text }}) {%- endmacro %}
{% macro trino__md5_of(text) -%} lower(to_hex(md5(to_utf8({{ text }})))) {%- endmacro %}

{% macro array_of(listed) -%} {{ adapter.dispatch('array_of')(listed | join(', ')) }} {%- endmacro %}
{% macro spark__array_of(listed) -%} array({{ listed }}) {%- endmacro %}
{% macro trino__array_of(listed) -%} array[{{ listed }}] {%- endmacro %}


{#- A value as a text that both engines make of it, whichever way they would print it. -#}
{% macro printed(value, type) -%}
    {%- if type == 'text' -%} {{ value }}
    {%- elif type in ('real', 'double precision') -%} {{ adapter.dispatch('printed_float')(value) }}
    {%- elif type.startswith('timestamp') -%} {{ adapter.dispatch('printed_time')(value) }}
    {%- elif type == 'bytea' -%} {{ adapter.dispatch('printed_bytes')(value) }}
    {%- else -%} cast({{ value }} as {{ engine_type('text') }})
    {%- endif -%}
{%- endmacro %}

{#- Both as Java does. -#}
{% macro spark__printed_float(value) -%} cast({{ value }} as string) {%- endmacro %}
{% macro trino__printed_float(value) -%} format('%s', {{ value }}) {%- endmacro %}

{% macro spark__printed_time(value) -%} date_format({{ value }}, 'yyyy-MM-dd HH:mm:ss.SSSSSS') {%- endmacro %}
{% macro trino__printed_time(value) -%} cast(cast({{ value }} as timestamp(6)) as varchar) {%- endmacro %}

{% macro spark__printed_bytes(value) -%} hex({{ value }}) {%- endmacro %}
{% macro trino__printed_bytes(value) -%} to_hex({{ value }}) {%- endmacro %}
