{{ config(unique_key='date_day', changed_by=['day_of_week']) }}

with digits as (
    select listed.digit
    from (values (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) as listed (digit)
),

numbers as (
    select
        ones.digit
        + 10 * tens.digit
        + 100 * hundreds.digit
        + 1000 * thousands.digit
        + 10000 * ten_thousands.digit as day
    from digits as ones
    cross join digits as tens
    cross join digits as hundreds
    cross join digits as thousands
    cross join digits as ten_thousands
),

days as (
    select
        day,
        {{ from_days('day') }} as date_day
    from numbers
    where day between {{ days_of(var('dates')[0]) }} and {{ days_of(var('dates')[1]) }}
),

dates as (
    select
        date_day,
        cast(extract(year from date_day) as int) as calendar_year,
        cast(extract(quarter from date_day) as int) as calendar_quarter,
        cast(extract(month from date_day) as int) as calendar_month,
        cast((day + 3) % 7 + 1 as int) as day_of_week,
        (day + 3) % 7 >= 5 as is_weekend,
        false as _deleted
    from days
)

select
    date_day,
    calendar_year,
    calendar_quarter,
    calendar_month,
    day_of_week,
    is_weekend
{{ from_merged('dates') }}
