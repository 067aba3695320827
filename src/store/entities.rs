//! Our own tables.
#![expect(unreachable_pub, reason = "the derive macro wants these items public")]

/// A receipt: how a volume was found to be gone, or that a container was removed for its sake.
pub(super) mod volume_removal {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_removals")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub thread_id: String,
        pub volume_name: String,
        pub outcome: String,
        pub source: String,
        pub event_id: Option<String>,
        pub replica: String,
        pub removed_at: DateTimeUtc,
        pub host: Option<String>,
        pub daemon: Option<String>,
        pub bytes: Option<i64>,
        pub duration_ms: Option<i64>,
        pub actor: Option<String>,
        pub container_id: Option<String>,
        pub container_name: Option<String>,
        pub chain_id: Option<String>,
        pub chain_sequence: Option<i64>,
        pub chain_hash: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A daemon whose identity is pinned.
pub(super) mod daemon {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_daemons")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub identity: String,
        pub pinned_at: DateTimeUtc,
        pub volumes: Option<i64>,
        pub seen_at: Option<DateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A thread whose clean-up failed.
pub(super) mod failure {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_failures")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub thread_id: String,
        pub attempts: i64,
        pub first_failed_at: DateTimeUtc,
        pub failed_at: DateTimeUtc,
        pub error: String,
        pub replica: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Who does what only one replica may do.
pub(super) mod lease {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_leases")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub holder: String,
        pub epoch: i64,
        pub expires_at: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A thread that is not to be cleaned.
pub(super) mod hold {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_holds")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub thread_id: String,
        pub reason: String,
        pub held_at: DateTimeUtc,
        pub until: Option<DateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Whether removal is paused: one row, which stays for `resumed_at`.
pub(super) mod pause {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "volume_reaper_pauses")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub paused_at: Option<DateTimeUtc>,
        pub reason: Option<String>,
        pub paused_by: Option<String>,
        pub resumed_at: Option<DateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
