with source as (

    select * from {{ source('shop', 'orders') }}

),

renamed as (

    select
        -- ids
        order_id,
        customer_id,

        -- texts
        coalesce(status, 'placed') as status,
        {{ some_text('channel') }} as channel,

        -- numbers
        discount as order_discount,

        -- times
        ordered_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
