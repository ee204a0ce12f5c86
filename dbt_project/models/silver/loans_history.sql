{{
    config(
        unique_key=['loan_id', '_lsn'],
        changed_by=['is_current', 'valid_to'],
        partition_by=['is_current'],
        pre_hook="{{ judge_again('loans') }}",
    )
}}

{% set since = watermark() %}
{% set snapshot = newest_snapshot('loan') %}

with changes as (
    {{ changelog('loan', since, snapshot) }}
    {% if is_incremental() %}
    union all
    {{ vanished('loan', this, snapshot, 'is_current') }}
    {% endif %}
),

versions as (
    select
        {{ columns_of('loan') }},
        _op as op,
        {{ holds_rules('loans') }} as is_valid,
        case
            when _op = 'r' then least(updated_at, _ingested_at)
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
        {{ columns_of('loan') }},
        op,
        is_valid,
        valid_from,
        _lsn,
        _prior_commit_lsn,
        _committed_at,
        _ingested_at
    from {{ this }}
    where
        is_current
        and (_prior_commit_lsn < {{ since }} or _prior_commit_lsn < {{ snapshot }} - 1)
        and loan_id in (select changes.loan_id from changes)
    {% endif %}
),

followed as (
    select
        *,
        lead(valid_from) over (
            partition by loan_id order by _prior_commit_lsn, _lsn
        ) as next_from,
        lead(_lsn) over (
            partition by loan_id order by _prior_commit_lsn, _lsn
        ) is null as is_last
    from versions
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
    {{ columns_of('loan') }},
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
