with source as (

    select * from {{ source('shop', 'tickets') }}

),

renamed as (

    select
        -- ids
        ticket_id,
        customer_id,
        order_id,
        product_id,

        -- texts
        {{ some_text('channel') }} as channel,
        subject,
        body,
        {{ some_text('locale') }} as locale,

        -- numbers
        satisfaction,

        -- times
        opened_at,
        closed_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
