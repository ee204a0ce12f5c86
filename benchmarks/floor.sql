-- The project's models as one would write them by hand for DuckDB alone, in tables of its own.
-- `loan_changes` and `payment_changes` are the typed changes from `$since` on; each statement does
-- the first build and a later one alike.

create table if not exists loans_history as
select
    *,
    true as is_valid,
    true as is_current,
    _ingested_at as valid_from,
    _ingested_at as valid_to
from loan_changes
limit 0;

create table if not exists loans as
select * exclude (op) from loan_changes limit 0;

create table if not exists loan_payments as
select * exclude (op) from payment_changes limit 0;

create table if not exists loans_quarantine as
select
    * exclude (op),
    '' as rule,
    '' as on_break,
    _ingested_at as first_seen_at,
    _ingested_at as last_seen_at
from loan_changes
limit 0;

create table if not exists dim_dates as
select
    cast(day as date) as date_day,
    extract(year from day) as calendar_year,
    extract(quarter from day) as calendar_quarter,
    extract(month from day) as calendar_month,
    isodow(day) as day_of_week,
    isodow(day) >= 6 as is_weekend
from generate_series(date '2020-01-01', date '2039-12-31', interval 1 day) as days (day);

-- silver: every version of a loan

create or replace temp table versions as
with known as (
    select
        *,
        case
            when op = 'r' then least(coalesce(updated_at, _ingested_at), _ingested_at)
            else coalesce(_committed_at, _ingested_at)
        end as valid_from
    from loan_changes
    union all by name
    select * exclude (is_valid, is_current, valid_to)
    from loans_history
    where is_current and loan_id in (select loan_id from loan_changes)
),

whole as ( -- a delete may have its key alone
    select
        loan_id,
        op,
        valid_from,
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at,
        if(
            op = 'd' and updated_at is null,
            lag(columns(* exclude (loan_id, op, valid_from, _commit_lsn, _ordinal, _committed_at, _ingested_at)))
                over following,
            columns(* exclude (loan_id, op, valid_from, _commit_lsn, _ordinal, _committed_at, _ingested_at))
        ) as '\0'
    from known
    window following as (partition by loan_id order by _commit_lsn, _ordinal)
)

select
    *,
    coalesce(person_age between 18 and 100, false)
    and coalesce(person_emp_exp <= person_age - 14, false)
    and coalesce(loan_amnt > 0, false)
    and coalesce(person_income > 0, false)
    and coalesce(loan_int_rate between 0 and 40, false)
    and coalesce(credit_score between 300 and 850, false)
    and coalesce(loan_status in (0, 1) or loan_status is null, false) as is_valid
from whole;

delete from loans_history using versions
where
    loans_history.loan_id = versions.loan_id
    and loans_history._commit_lsn = versions._commit_lsn
    and loans_history._ordinal = versions._ordinal;

insert into loans_history by name
select
    *,
    lead(_commit_lsn) over following is null and op <> 'd' as is_current,
    case when op = 'd' then valid_from else lead(valid_from) over following end as valid_to
from versions
window following as (partition by loan_id order by _commit_lsn, _ordinal);

create or replace temp table last_versions as
select *
from versions
qualify row_number() over (partition by loan_id order by _commit_lsn desc, _ordinal desc) = 1;

-- silver: loans, quarantine, payments

delete from loans where loan_id in (select loan_id from last_versions);

insert into loans by name
select * exclude (op, is_valid, valid_from) from last_versions where op <> 'd' and is_valid;

create or replace temp table broken as
select
    * exclude (op, is_valid, valid_from, holds),
    _ingested_at as first_seen_at,
    _ingested_at as last_seen_at
from (
    select
        *,
        unnest([
            {'rule': 'age_plausible', 'on_break': 'quarantine', 'holds': person_age between 18 and 100},
            {'rule': 'employment_plausible', 'on_break': 'quarantine', 'holds': person_emp_exp <= person_age - 14},
            {'rule': 'amount_positive', 'on_break': 'quarantine', 'holds': loan_amnt > 0},
            {'rule': 'income_positive', 'on_break': 'quarantine', 'holds': person_income > 0},
            {'rule': 'rate_plausible', 'on_break': 'quarantine', 'holds': loan_int_rate between 0 and 40},
            {'rule': 'credit_score_in_range', 'on_break': 'quarantine', 'holds': credit_score between 300 and 850},
            {'rule': 'status_known', 'on_break': 'quarantine', 'holds': loan_status in (0, 1) or loan_status is null},
            {'rule': 'burden_told', 'on_break': 'warn', 'holds': loan_percent_income > 0}
        ], recursive := true)
    from last_versions
    where
        op <> 'd'
        and (not is_valid or not coalesce(loan_percent_income > 0, false))
)
where not coalesce(holds, false);

update broken set first_seen_at = known.first_seen_at
from loans_quarantine as known
where broken.loan_id = known.loan_id and broken.rule = known.rule;

delete from loans_quarantine where loan_id in (select loan_id from last_versions);

insert into loans_quarantine by name select * from broken;

create or replace temp table last_payments as
select *
from payment_changes
qualify
    row_number() over (partition by loan_id, installment order by _commit_lsn desc, _ordinal desc) = 1;

delete from loan_payments using last_payments
where
    loan_payments.loan_id = last_payments.loan_id
    and loan_payments.installment = last_payments.installment;

insert into loan_payments by name select * exclude (op) from last_payments where op <> 'd';

-- gold: facts

create or replace temp table facts as
with touched as (
    select loan_id from versions
    union
    select loan_id from payment_changes
),

decisions as (
    select
        loan_id,
        min(valid_from) as decided_at
    from loans_history
    where loan_status is not null and op <> 'd' and loan_id in (select loan_id from touched)
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
        min(case when paid_at is null then due_on end) as next_due_on
    from loan_payments
    where loan_id in (select loan_id from touched)
    group by loan_id
)

select
    touched.loan_id,
    loans.* exclude (loan_id, loan_status),
    case
        when person_age < 30 then 'under 30'
        when person_age < 40 then '30-39'
        when person_age < 50 then '40-49'
        when person_age < 60 then '50-59'
        else '60 and over'
    end as age_band,
    case
        when person_income < 40000 then 'low'
        when person_income < 100000 then 'middle'
        else 'high'
    end as income_band,
    loan_status is not null as is_decided,
    loan_status = 1 as is_approved,
    case when loan_status is not null then decided_at end as decided_at,
    coalesce(installments, 0) as installments,
    coalesce(installments_paid, 0) as installments_paid,
    coalesce(installments_paid_late, 0) as installments_paid_late,
    coalesce(scheduled_amount, 0) as scheduled_amount,
    coalesce(paid_amount, 0) as paid_amount,
    next_due_on,
    loans.loan_id is null as is_gone
from touched
left join loans on touched.loan_id = loans.loan_id
left join decisions on touched.loan_id = decisions.loan_id
left join settlements on touched.loan_id = settlements.loan_id;

create table if not exists fct_loans as
select * exclude (is_gone) from facts limit 0;

delete from fct_loans where loan_id in (select loan_id from facts);

insert into fct_loans by name select * exclude (is_gone) from facts where not is_gone;

-- gold: features

create or replace temp table features as
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
    cast(previous_loan_defaults_on_file as int) as has_previous_default,
    person_gender,
    person_education,
    person_home_ownership as home_ownership,
    loan_intent,
    _commit_lsn,
    _ordinal,
    op = 'd' or not is_valid as is_gone
from versions
qualify
    row_number() over (partition by loan_id, valid_from order by _commit_lsn desc, _ordinal desc) = 1;

create table if not exists ftr_loans as
select * exclude (is_gone) from features limit 0;

delete from ftr_loans using features
where
    ftr_loans.loan_id = features.loan_id
    and ftr_loans.event_timestamp = features.event_timestamp;

insert into ftr_loans by name select * exclude (is_gone) from features where not is_gone;

-- gold: what was approved, by month and intent

create table if not exists agg_loan_approvals (
    applied_month date,
    loan_intent varchar,
    applications bigint,
    decided bigint,
    approved bigint,
    approval_rate double,
    requested_amount decimal(18, 2),
    approved_amount decimal(18, 2)
);

create or replace temp table touched_groups as
select distinct
    cast(date_trunc('month', applied_at) as date) as applied_month,
    loan_intent
from loans_history
where loan_id in (select loan_id from versions);

delete from agg_loan_approvals using touched_groups
where
    agg_loan_approvals.applied_month = touched_groups.applied_month
    and agg_loan_approvals.loan_intent = touched_groups.loan_intent;

insert into agg_loan_approvals
select
    touched_groups.applied_month,
    touched_groups.loan_intent,
    count(*),
    count(case when is_decided then 1 end),
    count(case when is_approved then 1 end),
    count(case when is_approved then 1 end) / nullif(count(case when is_decided then 1 end), 0),
    sum(loan_amnt),
    sum(case when is_approved then loan_amnt else 0 end)
from fct_loans
inner join touched_groups
    on
        cast(date_trunc('month', fct_loans.applied_at) as date) = touched_groups.applied_month
        and fct_loans.loan_intent = touched_groups.loan_intent
group by touched_groups.applied_month, touched_groups.loan_intent;
