{#-
    The rows of a source table whose last version breaks a rule of the model that `meta.quarantine_of`
    names, once for each rule, with the values that break it. A row leaves when it is mended or
    deleted, or its rule has gone. `history` is the relation of all versions. The model's `unique_key`
    is the table's and `rule`, and its `merge_exclude_columns` are `first_seen_at` and `run_id`.
-#}
{% macro quarantine(table, history) -%}
{%- set of, key = model.config.meta.get('quarantine_of'), declared_table(table).key -%}
{%- set columns -%}
    {{ columns_of(table) }},
    rule,
    on_break,
    first_seen_at,
    last_seen_at,
    run_id,
    _commit_lsn,
    _ordinal,
    _committed_at,
    _ingested_at
{%- endset -%}
with last_versions as (
    {{ last_versions(history, key) }}
),

rules as (
    {{ rule_names(of) }}
),

broken as (
    select
        last_versions.*,
        rules.rule,
        rules.on_break
    from last_versions
    cross join rules
    where last_versions.op <> 'd' and not {{ holds_rule(of) }}
),

judged as (
    select
        {{ columns_of(table) }},
        rule,
        on_break,
        _ingested_at as first_seen_at,
        _ingested_at as last_seen_at,
        '{{ env_var("LAKE_BRANCH", "lake") if execute }}' as run_id,
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at,
        false as _deleted
    from broken
    {% if is_incremental() %}
    union all -- what no longer breaks what it broke
    select
        {{ columns }},
        true as _deleted
    from {{ this }} as known
    where
        exists (
            select 1 from last_versions
            where {{ same_key(key, 'last_versions', 'known') }}
        )
        and not exists (
            select 1 from broken
            where {{ same_key(key + ['rule'], 'broken', 'known') }}
        )
    {% endif %}
)

select
    {{ columns }}
{{ from_merged('judged') }}
{%- endmacro %}
