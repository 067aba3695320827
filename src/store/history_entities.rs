//! Our tables of what was done.
#![expect(unreachable_pub, reason = "the derive macro wants these items public")]

/// A replica's chain of receipts: where it begins, and how far it is known to go.
pub(super) mod chain {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_chains")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub replica: String,
        pub began_at: DateTimeUtc,
        pub kept_from: i64,
        pub kept_after: String,
        pub length: i64,
        pub head: String,
        pub noted_at: DateTimeUtc,
        pub closed_at: Option<DateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A sweep.
pub(super) mod sweep {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_sweeps")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub host: Option<String>,
        pub cause: String,
        pub replica: String,
        pub actor: Option<String>,
        pub began_at: DateTimeUtc,
        pub ended_at: Option<DateTimeUtc>,
        pub duration_ms: Option<i64>,
        pub skipped_reason: Option<String>,
        pub report: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What a person did.
pub(super) mod action {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_actions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub done_at: DateTimeUtc,
        pub actor: String,
        pub via: String,
        pub action: String,
        pub target: Option<String>,
        pub details: Option<String>,
        pub error: Option<String>,
        pub replica: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Up to which receipt they are counted.
pub(super) mod rollup {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_rollups")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub receipt_id: i64,
        pub rolled_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// An event that is to be published.
pub(super) mod outbox {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_outbox")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub thread_id: String,
        pub event: String,
        pub made_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// How many volumes went within a minute, an hour or a day.
pub(super) mod stat {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_stats")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub resolution: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub bucket: DateTimeUtc,
        #[sea_orm(primary_key, auto_increment = false)]
        pub host: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub source: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub outcome: String,
        pub receipts: i64,
        pub bytes: i64,
        pub unsized_receipts: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
