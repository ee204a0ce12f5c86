{{ config(unique_key=['loan_id', 'event_timestamp']) }}

with history as (
    select * from {{ ref('loans_history') }}
    where {{ is_new(watermark()) }}
),

last_versions as ( -- of those that share a moment
    {{ last_of('history', ['loan_id', 'valid_from'], single="op = 'r' and is_current") }}
),

features as (
    select
        *,
        op = 'd' or not is_valid as _deleted
    from last_versions
)

select
    loan_id,
    valid_from as event_timestamp,
    _ingested_at as created_timestamp,
    person_age,
    cast(person_income as double) as person_income,
    person_emp_exp,
    cast(loan_amnt as double) as loan_amnt,
    cast(loan_int_rate as double) as loan_int_rate,
    cast(loan_percent_income as double) as loan_percent_income,
    cb_person_cred_hist_length as cred_hist_length,
    credit_score,
    case when previous_loan_defaults_on_file then 1 else 0 end as has_previous_default,
    person_gender,
    person_education,
    person_home_ownership as home_ownership,
    loan_intent,
    _commit_lsn,
    _ordinal
{{ from_merged('features') }}
