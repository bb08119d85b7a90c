with source as (

    select * from {{ source('shop', 'products') }}

),

renamed as (

    select
        -- ids
        product_id,

        -- texts
        title,
        {{ some_text('description') }} as description,
        {{ some_text('brand') }} as brand,
        {{ some_text("regexp_replace(category, '\\s*>\\s*', ' > ', 'g')") }} as category,
        attributes,
        coalesce(status, 'active') as status,
        {{ some_text('locale') }} as locale,

        -- numbers
        price,
        stock,

        -- times
        created_at,
        updated_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
