with source as (

    select * from {{ source('shop', 'reviews') }}

),

renamed as (

    select
        -- ids
        review_id,
        customer_id,
        product_id,

        -- texts
        title,
        body,
        {{ some_text('locale') }} as locale,

        -- numbers
        rating,

        -- times
        created_at as reviewed_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
