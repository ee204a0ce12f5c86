{#-
    A source table as it is now: the last change of each key, and no row that was deleted; of a table
    without a key, a `multiset`. With a `history` of it, which may have read less of bronze than there is
    by now, what that says: its last versions, and of those the valid ones.
-#}
{% macro current_state(table, history=none) -%}
{%- if execute and not declared_table(table).key -%} {{- return(multiset(table)) -}} {%- endif -%}
{%- set key = declared_table(table).key %}
with
{%- if not history %}
changes as (
    {{ changelog(table, watermark(), newest_snapshot(table), this if is_incremental(), completed='current') }}
),
{%- endif %}

last_changes as (
    {%- if history %}
    {{ last_versions(history, key) }}
    {%- else %}
    {{ last_of('changes', key, single="_op = 'r'") }}
    {%- endif %}
),

latest as (
    select
        *,
        {{ "op = 'd' or not is_valid" if history else "_op = 'd'" }} as _deleted
    from last_changes
)

select
    {{ columns_of(table) }},
    _commit_lsn,
    _ordinal,
    _committed_at,
    _ingested_at
{{ from_merged('latest') }}
{%- endmacro %}


{#- The last version of each key in a history; a later build needs only those that are new to it. -#}
{% macro last_versions(history, key) -%}
    {%- if is_incremental() -%}
    {{ last_of('(select * from ' ~ history ~ ' where ' ~ is_new(watermark()) ~ ') as recent', key) }}
    {%- else -%}
    select * from {{ history }}
    where is_current
    {%- endif -%}
{%- endmacro %}


{#-
    Of the rows in a relation that agree in `key`, a list of columns, the last one in the WAL. A first
    build has all rows, most of them alone with their key: it ranks only keys that have others than a
    `single` one, a condition that holds of at most one row of a key.
-#}
{% macro last_of(relation, key, single=none) -%}
    select * from (
        select
            *,
            row_number() over (
                partition by {{ quoted(key) }} order by _commit_lsn desc, _ordinal desc
            ) as _nth
        from {{ relation }}
        {%- if single and not is_incremental() %}
        where {{ has_company(relation, key, single) }}
        {%- endif %}
    ) as ranked
    where _nth = 1
    {%- if single and not is_incremental() %}
    union all
    select
        *,
        1 as _nth
    from {{ relation }}
    where not {{ has_company(relation, key, single) }}
    {%- endif %}
{%- endmacro %}


{#- Whether the key of a row, of the same relation or `of` another, has a row in it that is not `single`, a condition. -#}
{% macro has_company(relation, key, single, of=none) -%}
    exists (
        select 1 from {{ relation }} as company
        where not ({{ single }}) and {{ same_key(key, 'company', of or relation) }}
    )
{%- endmacro %}
