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

ranked as (
    select
        *,
        row_number() over (
            partition by {{ declared_table(table).key | join(', ') }}
            order by _prior_commit_lsn desc, _lsn desc
        ) as age
    from changes
),

latest as (
    select
        *,
        _op = 'd' as _deleted
    from ranked
    where age = 1
)

select
    {{ columns_of(table) }},
    _lsn,
    _prior_commit_lsn,
    _committed_at,
    _ingested_at
{{ from_merged('latest') }}
{%- endmacro %}
