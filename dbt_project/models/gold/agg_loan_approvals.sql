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
        touched.applied_month,
        touched.loan_intent,
        count(loans.loan_id) as applications,
        count(case when loans.is_decided then 1 end) as decided,
        count(case when loans.is_approved then 1 end) as approved,
        sum(loans.loan_amnt) as requested_amount,
        sum(case when loans.is_approved then loans.loan_amnt else 0 end) as approved_amount,
        max(loans._prior_commit_lsn) as _prior_commit_lsn
    from touched
    left join loans
        on
            touched.applied_month = loans.applied_month
            and touched.loan_intent = loans.loan_intent
    group by touched.applied_month, touched.loan_intent
),

rated as (
    select
        *,
        cast(approved as double) / nullif(decided, 0) as approval_rate,
        applications = 0 as _deleted
    from counted
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
