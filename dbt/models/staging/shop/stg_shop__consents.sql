with source as (

    select * from {{ source('shop', 'consents') }}

),

renamed as (

    select
        -- ids
        customer_id,

        -- texts
        purpose,
        state,
        source,

        -- times
        effective_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
