{{ config(unique_key='loan_id') }}

with history as (
    select * from {{ ref('loans_history') }}
    where _prior_commit_lsn >= {{ watermark() }}
),

last_versions as (
    {{ last_of('history', ['loan_id']) }}
),

latest as (
    select
        *,
        op = 'd' or not is_valid as _deleted
    from last_versions
)

select
    {{ columns_of('loan') }},
    _lsn,
    _prior_commit_lsn,
    _committed_at,
    _ingested_at
{{ from_merged('latest') }}
