with source as (

    select * from {{ source('shop', 'events') }}

),

renamed as (

    select
        -- ids
        event_id,
        customer_id,
        session_id,
        product_id,

        -- texts
        event_type,
        properties,

        -- times
        occurred_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
