{{
    config(
        unique_key=['loan_id', 'rule'],
        merge_exclude_columns=['first_seen_at', 'run_id'],
    )
}}

with history as (
    select * from {{ ref('loans_history') }}
    where _prior_commit_lsn >= {{ watermark() }}
),

last_versions as (
    {{ last_of('history', ['loan_id']) }}
),

rules as (
    {{ rule_names('loans') }}
),

judged as (
    select
        last_versions.*,
        rules.rule,
        op = 'd' or {{ holds_rule('loans') }} as _deleted,
        _ingested_at as first_seen_at,
        '{{ invocation_id }}' as run_id
    from last_versions
    cross join rules
)

select
    loan_id,
    rule,
    {{ columns_of('loan', without=['loan_id']) }},
    first_seen_at,
    run_id,
    _lsn,
    _prior_commit_lsn,
    _committed_at,
    _ingested_at
{{ from_merged('judged') }}
