{% set position = ['_commit_lsn', '_ordinal', '_payments_commit_lsn', '_payments_ordinal'] %}
{% set settled = ['installments', 'installments_paid', 'scheduled_amount', 'paid_amount'] %}
{{ config(unique_key='loan_id', changed_by=position + settled) }}

{% set since, payments_since = watermark(), watermark('_payments_commit_lsn') %}
{% set payments_snapshot = newest_snapshot('loan_payment') %}
{% set payments_truncated = 'truncate' in change_kinds('loan_payment', payments_since, payments_snapshot) %}

with history as (
    select * from {{ ref('loans_history') }}
),

payments as (
    select * from {{ ref('loan_payments') }}
),

touched as (
    select distinct loan_id from history
    where {{ is_new(since) }}
    {% if is_incremental() %}
    union
    select loan_id from payments
    where {{ is_new(payments_since) }}
    union -- installments that are gone
    select loan_id from ({{ changelog('loan_payment', payments_since, payments_snapshot, completed='none') }}) as changes
    where _op = 'd'
    union
    select loan_id from {{ this }}
    where _payments_commit_lsn < {{ payments_snapshot }} - 1 {{ 'or installments > 0' if payments_truncated }}
    {% endif %}
),

loans as (
    select * from {{ ref('loans') }}
    {% if is_incremental() %}
    where loan_id in (select touched.loan_id from touched)
    {% endif %}
),

decisions as (
    select
        loan_id,
        min(valid_from) as decided_at
    from history
    where
        loan_status is not null
        and op <> 'd'
        and loan_id in (select touched.loan_id from touched)
    group by loan_id
),

settlements as (
    select
        loan_id,
        count(*) as installments,
        count(paid_at) as installments_paid,
        count(case when cast(paid_at as date) > due_on then 1 end) as installments_paid_late,
        sum(amount) as scheduled_amount,
        sum(case when paid_at is not null then amount else 0 end) as paid_amount,
        min(case when paid_at is null then due_on end) as next_due_on,
        max(_commit_lsn) as _payments_commit_lsn,
        max_by(_ordinal, (_commit_lsn, _ordinal)) as _payments_ordinal
    from payments
    where loan_id in (select touched.loan_id from touched)
    group by loan_id
),

facts as (
    select
        loans.*,
        case
            when loans.person_age < 30 then 'under 30'
            when loans.person_age < 40 then '30-39'
            when loans.person_age < 50 then '40-49'
            when loans.person_age < 60 then '50-59'
            else '60 and over'
        end as age_band,
        case
            when loans.person_income < 40000 then 'low'
            when loans.person_income < 100000 then 'middle'
            else 'high'
        end as income_band,
        loans.loan_status is not null as is_decided,
        loans.loan_status = 1 as is_approved,
        case when loans.loan_status is not null then decisions.decided_at end as decided_at,
        coalesce(settlements.installments, 0) as installments,
        coalesce(settlements.installments_paid, 0) as installments_paid,
        coalesce(settlements.installments_paid_late, 0) as installments_paid_late,
        coalesce(settlements.scheduled_amount, 0) as scheduled_amount,
        coalesce(settlements.paid_amount, 0) as paid_amount,
        settlements.next_due_on,
        settlements._payments_commit_lsn,
        settlements._payments_ordinal,
        touched.loan_id as touched_id,
        loans.loan_id is null as _deleted
    from touched
    left join loans on touched.loan_id = loans.loan_id
    left join decisions on touched.loan_id = decisions.loan_id
    left join settlements on touched.loan_id = settlements.loan_id
)

select
    touched_id as loan_id,
    {{ columns_of('loan', without=['loan_id', 'loan_status']) }},
    age_band,
    income_band,
    is_decided,
    is_approved,
    decided_at,
    installments,
    installments_paid,
    installments_paid_late,
    cast(scheduled_amount as decimal(18, 2)) as scheduled_amount,
    cast(paid_amount as decimal(18, 2)) as paid_amount,
    next_due_on,
    _commit_lsn,
    _ordinal,
    _committed_at,
    _ingested_at,
    _payments_commit_lsn,
    _payments_ordinal
{{ from_merged('facts') }}
