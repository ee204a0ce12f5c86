{{ config(unique_key='loan_id') }}

with history as (
    select * from {{ ref('loans_history') }}
    where _prior_commit_lsn >= {{ watermark() }}
),

ranked as (
    select
        *,
        row_number() over (
            partition by loan_id order by _prior_commit_lsn desc, _lsn desc
        ) as age
    from history
),

latest as (
    select
        *,
        op = 'd' or not is_valid as _deleted
    from ranked
    where age = 1
)

select
    {{ columns_of('loan') }},
    _lsn,
    _prior_commit_lsn,
    _committed_at,
    _ingested_at
{{ from_merged('latest') }}
