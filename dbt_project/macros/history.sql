{#-
    Every version of a source table's rows, with the time for which it held. A version is valid if it
    holds the rules of the model that `meta.history_of` names; what a bulk snapshot holds began with
    the source's last write of it, where a column `written_at` tells that, and else with the snapshot. No
    version of a row begins before the one before it: the source's clock may be set back, and a change be
    committed while the snapshot was made.
-#}
{% macro history(table, written_at='_ingested_at') -%}
{%- set since, snapshot = watermark(), newest_snapshot(table) -%}
{%- set key = declared_table(table).key -%}
{%- set known = versions_at(since, snapshot, key) if is_incremental() else none -%}
{%- set by_key, in_order = 'partition by ' ~ quoted(key), 'order by _commit_lsn, _ordinal' -%}
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
        end as began_at,
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
        valid_from as began_at,
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

lives as ( -- a row lives until it is deleted, and may come again
    select
        *,
        count(case when op = 'd' then 1 end) over (
            {{ by_key }} {{ in_order }} rows between unbounded preceding and 1 preceding
        ) as life
    from versions
    {%- if not is_incremental() %}
    where {{ has_company('versions', key, "op = 'r'") }}
    {%- endif %}
),

begun as (
    select
        *,
        max(began_at) over ({{ by_key }}, life {{ in_order }}) as valid_from
    from lives
),

followed as (
    select
        *,
        lead(valid_from) over ({{ by_key }} {{ in_order }}) as next_from,
        lead(_commit_lsn) over ({{ by_key }} {{ in_order }}) is null as is_last
    from begun
    {%- if not is_incremental() %}
    union all -- what was landed in bulk, and has not changed since
    select
        *,
        0 as life,
        began_at as valid_from,
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
    The versions of this history that the changes since a watermark, or since a newer snapshot, come
    after: one for each row that was there then. Where no replay goes back behind the last build, these
    are the current ones.
-#}
{% macro versions_at(since, snapshot, key) -%}
    {%- set before = '_commit_lsn < ' ~ ([since + 1, snapshot - 1] | max) -%}
    {%- if replay_from() is none -%}
    (select * from {{ this }} where is_current and {{ before }})
    {%- else -%}
    (select * from ({{ last_of('(select * from ' ~ this ~ ' where ' ~ before ~ ') as earlier', key) }}) as last_versions where op <> 'd')
    {%- endif -%}
{%- endmacro %}
