with source as (

    select * from {{ source('shop', 'articles') }}

),

renamed as (

    select
        -- ids
        article_id,

        -- texts
        title,
        body,
        {{ some_text('locale') }} as locale,

        -- times
        updated_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
