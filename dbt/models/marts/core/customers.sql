with night as (

    select * from {{ ref('stg_shop__night') }}

),

registered as (

    select customers.*
    from {{ ref('stg_shop__customers') }} as customers
    cross join night
    where customers.created_at is null or customers.created_at < night.day_starts_at

),

buyers as (

    select distinct orders.customer_id
    from {{ ref('stg_shop__orders') }} as orders
    cross join night
    where orders.ordered_at < night.day_starts_at

),

known as (

    select customer_id from registered
    union
    select customer_id from buyers

),

accounts as (

    select * from {{ ref('stg_shop__customers') }}

),

bots as (

    select * from {{ ref('int_customers__flagged_bots') }}

),

consents as (

    select * from {{ ref('int_customers__consented') }}

)

select
    known.customer_id,
    accounts.created_at,
    accounts.locale,
    accounts.country,
    bots.customer_id is not null as is_bot,
    cast(consents.profiling as varchar) as profiling,
    cast(consents.marketing as varchar) as marketing,
    cast(consents.training as varchar) as training

from known
left join accounts on accounts.customer_id = known.customer_id
left join bots on bots.customer_id = known.customer_id
left join consents on consents.customer_id = known.customer_id
