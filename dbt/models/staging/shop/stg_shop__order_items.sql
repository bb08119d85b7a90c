with source as (

    select * from {{ source('shop', 'order_items') }}

),

renamed as (

    select
        -- ids
        order_id,
        line,
        product_id,

        -- numbers
        quantity,
        unit_price,
        discount as line_discount,
        refunded_quantity,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
