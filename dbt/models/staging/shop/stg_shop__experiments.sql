with source as (

    select * from {{ source('shop', 'experiments') }}

),

renamed as (

    select
        -- ids
        experiment_id,
        customer_id,

        -- texts
        variant,

        -- times
        exposed_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
