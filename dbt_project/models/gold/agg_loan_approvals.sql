{{
    config(
        unique_key=['applied_month', 'loan_intent'],
        changed_by=['applications', 'decided', 'approved', 'requested_amount', 'approved_amount', '_prior_commit_lsn'],
    )
}}

with loans as (
    select
        *,
        cast(date_trunc('month', applied_at) as date) as applied_month
    from {{ ref('fct_loans') }}
),

history as (
    select
        *,
        cast(date_trunc('month', applied_at) as date) as applied_month
    from {{ ref('loans_history') }}
),

touched as ( -- the groups that a changed loan is in, or has been in
    select distinct
        applied_month,
        loan_intent
    from history
    where loan_id in (
        select changed.loan_id from history as changed
        where changed._prior_commit_lsn >= {{ watermark() }}
    )
),

counted as (
    select
        applied_month,
        loan_intent,
        count(*) as applications,
        count(case when is_decided then 1 end) as decided,
        count(case when is_approved then 1 end) as approved,
        sum(loan_amnt) as requested_amount,
        sum(case when is_approved then loan_amnt else 0 end) as approved_amount,
        max(_prior_commit_lsn) as _prior_commit_lsn
    from loans
    group by applied_month, loan_intent
),

rated as (
    select
        touched.applied_month,
        touched.loan_intent,
        counted.applications,
        counted.decided,
        counted.approved,
        counted.requested_amount,
        counted.approved_amount,
        counted._prior_commit_lsn,
        cast(counted.approved as double) / nullif(counted.decided, 0) as approval_rate,
        counted.applications is null as _deleted
    from touched
    left join counted
        on
            touched.applied_month = counted.applied_month
            and touched.loan_intent = counted.loan_intent
)

select
    applied_month,
    loan_intent,
    applications,
    decided,
    approved,
    approval_rate,
    cast(requested_amount as decimal(18, 2)) as requested_amount,
    cast(approved_amount as decimal(18, 2)) as approved_amount,
    _prior_commit_lsn
{{ from_merged('rated') }}
