{#- A source table as it is now: the last change of each key, and no row that was deleted. -#}
{% macro current_state(table) -%}
{%- set snapshot = newest_snapshot(table) -%}
with changes as (
    {{ changelog(table, watermark(), snapshot) }}
    {% if is_incremental() %}
    union all
    {{ vanished(table, this, snapshot) }}
    {% endif %}
),

last_changes as (
    {{ last_of('changes', declared_table(table).key) }}
),

latest as (
    select
        *,
        _op = 'd' as _deleted
    from last_changes
)

select
    {{ columns_of(table) }},
    _lsn,
    _prior_commit_lsn,
    _committed_at,
    _ingested_at
{{ from_merged('latest') }}
{%- endmacro %}


{#- Of the changes in a relation that agree in `key`, a list of columns, the last one in the WAL. -#}
{% macro last_of(relation, key) -%}
    select * from (
        select
            *,
            row_number() over (
                partition by {{ key | join(', ') }} order by _prior_commit_lsn desc, _lsn desc
            ) as age
        from {{ relation }}
    ) as ranked
    where age = 1
{%- endmacro %}
