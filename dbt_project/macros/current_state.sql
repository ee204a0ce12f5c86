{#-
    A source table as it is now: the last change of each key, and no row that was deleted. With a
    `history` of it, which may have read less of bronze than there is by now, what that says: its
    last versions, and of those the valid ones.
-#}
{% macro current_state(table, history=none) -%}
{%- set snapshot = none if history else newest_snapshot(table) -%}
with changes as (
    {%- if history %}
    select * from {{ history }}
    where _prior_commit_lsn >= {{ watermark() }}
    {%- else %}
    {{ changelog(table, watermark(), snapshot) }}
    {% if is_incremental() %}
    union all
    {{ vanished(table, this, snapshot) }}
    {% endif %}
    {%- endif %}
),

last_changes as (
    {{ last_of('changes', declared_table(table).key) }}
),

latest as (
    select
        *,
        {{ "op = 'd' or not is_valid" if history else "_op = 'd'" }} as _deleted
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
                partition by {{ quoted(key) }} order by _prior_commit_lsn desc, _lsn desc
            ) as _nth
        from {{ relation }}
    ) as ranked
    where _nth = 1
{%- endmacro %}
