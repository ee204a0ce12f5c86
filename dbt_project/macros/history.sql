{#-
    Every version of a source table's rows, with the time for which it held. A version is valid if it
    holds the rules of the model that `meta.history_of` names; what a bulk snapshot holds began with
    the source's last write of it, where a column `written_at` tells that, and else when it was
    landed. A change that was landed twice is one version.
-#}
{% macro history(table, written_at='_ingested_at') -%}
{%- set since, snapshot = watermark(), newest_snapshot(table) -%}
{%- set key = declared_table(table).key -%}
{%- set in_order -%}
    partition by {{ quoted(key) }} order by _prior_commit_lsn, _lsn, _ingested_at desc
{%- endset -%}
with changes as (
    {{ changelog(table, since, snapshot) }}
    {{ vanished(table, this, snapshot, 'is_current') if is_incremental() }}
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
        _lsn,
        _prior_commit_lsn,
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
        _lsn,
        _prior_commit_lsn,
        _committed_at,
        _ingested_at
    from {{ this }} as known
    where
        is_current
        and (_prior_commit_lsn < {{ snapshot }} - 1 or not ({{ is_new(since) }})) -- others come again
        and exists (
            select 1 from changes
            where {{ same_key(key, 'changes', 'known') }}
        )
    {% endif %}
),

followed as (
    select
        *,
        lead(valid_from) over ({{ in_order }}) as next_from,
        lead(_lsn) over ({{ in_order }}) as next_lsn
    from versions
    {%- if not is_incremental() %}
    where {{ has_company('versions', key, "op = 'r'") }}
    union all -- what was landed in bulk, and has not changed since
    select
        *,
        cast(null as {{ engine_type('timestamptz') }}) as next_from,
        cast(null as bigint) as next_lsn
    from versions
    where not {{ has_company('versions', key, "op = 'r'") }}
    {%- endif %}
),

dated as (
    select
        *,
        next_lsn is null and op <> 'd' as is_current,
        case when op = 'd' then valid_from else next_from end as valid_to,
        false as _deleted
    from followed
    where next_lsn is null or next_lsn <> _lsn
)

select
    {{ columns_of(table) }},
    op,
    is_valid,
    is_current,
    valid_from,
    valid_to,
    _lsn,
    _prior_commit_lsn,
    _committed_at,
    _ingested_at
{{ from_merged('dated') }}
{%- endmacro %}
