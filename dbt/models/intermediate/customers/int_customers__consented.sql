with consents as (

    select * from {{ ref('stg_shop__consents') }}

),

night as (

    select * from {{ ref('stg_shop__night') }}

),

ranked as (

    select
        consents.customer_id,
        consents.purpose,
        consents.state,
        -- Two decisions at one moment cannot both hold: the refusal does.
        row_number() over (
            partition by consents.customer_id, consents.purpose
            order by consents.effective_at desc, consents.state desc
        ) as recency

    from consents
    cross join night
    where consents.effective_at < night.day_starts_at

)

select
    customer_id,
    max(case when purpose = 'marketing' then state end) as marketing,
    max(case when purpose = 'profiling' then state end) as profiling,
    max(case when purpose = 'training' then state end) as training,
    max(case when purpose = 'service' then state end) as service

from ranked
where recency = 1
group by customer_id
