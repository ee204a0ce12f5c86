{{
    config(
        unique_key=['applied_month', 'loan_intent'],
        changed_by=['applications', 'decided', 'approved', 'requested_amount', 'approved_amount', '_commit_lsn'],
    )
}}

with history as (
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
        where {{ is_new(watermark()) }}
    )
),

by_day as ( -- first, since to round every loan's time to its month is slow
    select
        cast(applied_at as date) as applied_on,
        loan_intent,
        count(*) as applications,
        count(case when is_decided then 1 end) as decided,
        count(case when is_approved then 1 end) as approved,
        sum(loan_amnt) as requested_amount,
        sum(case when is_approved then loan_amnt else 0 end) as approved_amount,
        max(_commit_lsn) as _commit_lsn
    from {{ ref('fct_loans') }}
    group by cast(applied_at as date), loan_intent
),

by_month as (
    select
        cast(date_trunc('month', applied_on) as date) as applied_month,
        loan_intent,
        sum(applications) as applications,
        sum(decided) as decided,
        sum(approved) as approved,
        sum(requested_amount) as requested_amount,
        sum(approved_amount) as approved_amount,
        max(_commit_lsn) as _commit_lsn
    from by_day
    group by cast(date_trunc('month', applied_on) as date), loan_intent
),

rated as (
    select
        touched.applied_month,
        touched.loan_intent,
        by_month.applications,
        by_month.decided,
        by_month.approved,
        by_month.requested_amount,
        by_month.approved_amount,
        by_month._commit_lsn,
        cast(by_month.approved as double) / nullif(by_month.decided, 0) as approval_rate,
        by_month.applications is null as _deleted
    from touched
    left join by_month
        on
            touched.applied_month = by_month.applied_month
            and touched.loan_intent = by_month.loan_intent
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
    _commit_lsn
{{ from_merged('rated') }}
