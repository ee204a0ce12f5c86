{#-
    Every version of a source table's rows, with the time for which it held. A version is valid if it
    holds the rules of the model that `meta.history_of` names; what a bulk snapshot holds began with
    the source's last write of it, where a column `written_at` tells that, and else when it was landed.
-#}
{% macro history(table, written_at='_ingested_at') -%}
{%- set since, snapshot = watermark(), newest_snapshot(table) -%}
{%- set key = declared_table(table).key -%}
{%- set known = versions_at(since, snapshot, key) if is_incremental() else none -%}
{%- set in_order = 'over (partition by ' ~ quoted(key) ~ ' order by _commit_lsn, _ordinal)' -%}
with changes as (
    {{ changelog(table, since, snapshot, known) }}
),

versions as (
    select
        {{ columns_of(table) }},
        _op as op,
        {{ holds_rules(model.config.meta.get('history_of')) }} as is_valid,
        case
            when _op = 'r' then least(coalesce({{ written_at }}, _ingested_at), _ingested_at)
            else coalesce(_committed_at, _ingested_at)
        end as valid_from,
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at
    from changes
    {% if is_incremental() %}
    union all -- what the changes bring to an end
    select
        {{ columns_of(table) }},
        op,
        is_valid,
        valid_from,
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at
    from {{ known }} as known
    where
        exists (
            select 1 from changes
            where {{ same_key(key, 'changes', 'known') }}
        )
    {% endif %}
),

followed as (
    select
        *,
        lead(valid_from) {{ in_order }} as next_from,
        lead(_commit_lsn) {{ in_order }} is null as is_last
    from versions
    {%- if not is_incremental() %}
    where {{ has_company('versions', key, "op = 'r'") }}
    union all -- what was landed in bulk, and has not changed since
    select
        *,
        cast(null as {{ engine_type('timestamptz') }}) as next_from,
        true as is_last
    from versions
    where not {{ has_company('versions', key, "op = 'r'") }}
    {%- endif %}
),

dated as (
    select
        *,
        is_last and op <> 'd' as is_current,
        case when op = 'd' then valid_from else next_from end as valid_to,
        false as _deleted
    from followed
)

select
    {{ columns_of(table) }},
    op,
    is_valid,
    is_current,
    valid_from,
    valid_to,
    _commit_lsn,
    _ordinal,
    _committed_at,
    _ingested_at
{{ from_merged('dated') }}
{%- endmacro %}


{#-
    The versions of this history that changes since a watermark come after: one for each row that was
    there then. Where no replay goes back behind the last build, these are the current ones.
-#}
{% macro versions_at(since, snapshot, key) -%}
    {%- if since < snapshot - 1 -%}
    (select * from {{ this }} where is_current and _commit_lsn < {{ snapshot - 1 }})
    {%- elif replay_from() is none -%}
    (select * from {{ this }} where is_current)
    {%- else -%}
    (select * from ({{ last_of('(select * from ' ~ this ~ ' where _commit_lsn <= ' ~ since ~ ') as earlier', key) }}) as last_versions where op <> 'd')
    {%- endif -%}
{%- endmacro %}
