//! Reopening clears the mark. A trigger, because the platform writes that row and knows nothing of us.
//!
//! Closing clears it as well, if it was left from before: by whatever way a thread that is not closed came to its mark,
//! it says nothing of the volume that it has when it is closed.

use sea_orm_migration::prelude::*;

use crate::{Found, change::Change};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration(pub(crate) Found);

impl Change for Migration {
    fn up(&self) -> Vec<String> {
        let mut statements = self.down();
        let (dialect, mapping) = (self.0.mapping.dialect, &self.0.mapping);
        statements.extend(match &mapping.names.volumes {
            None => dialect.create_trigger(mapping),
            Some(volumes) => dialect.create_volumes_trigger(mapping, volumes),
        });
        statements
    }

    fn down(&self) -> Vec<String> {
        self.0.mapping.dialect.drop_trigger(&self.0)
    }
}
