with source as (

    select * from {{ source('shop', 'customers') }}

),

renamed as (

    select
        -- ids
        customer_id,

        -- texts
        {{ some_text('locale') }} as locale,
        {{ some_text('country') }} as country,

        -- times
        created_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
