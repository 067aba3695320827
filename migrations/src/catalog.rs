//! What the database's catalogue says about the threads table, and whether that fits the configuration.
//!
//! What does not fit is refused with what was found instead: nothing of ours is made in place of what was misspelt.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, QueryResult, Statement},
};

use crate::{
    ADDITIONS_TABLE, REOPEN_TRIGGER, ThreadsTable, literal,
    mapping::{Closed, IdType, Mapping, MarkType},
    quoted,
};

/// At most so many names are told of what was found.
const NAMES_SHOWN: usize = 20;

/// The threads table and what of ours is there.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Found {
    /// How to address the table.
    pub mapping: Mapping,
    /// It is there.
    pub has_table: bool,
    /// It has the column for the mark.
    pub has_mark: bool,
    /// That column was added by us, and may be taken away.
    pub mark_is_ours: bool,
    /// It has the trigger that clears the mark. Looked at on PostgreSQL only, as the others know `IF EXISTS`.
    pub has_trigger: bool,
    /// Indexes whose concurrent build was interrupted: they are of no use, and `IF NOT EXISTS` would take them for good.
    pub invalid_indexes: Vec<String>,
    /// Indexes of ours that are there. Looked at on MySQL only, which does not know `IF EXISTS` for them.
    pub indexes: Vec<String>,
}

impl Found {
    /// What is known without having looked: enough to list the migrations.
    #[must_use]
    pub fn unseen(names: &ThreadsTable, backend: DbBackend) -> Self {
        Self {
            mapping: Mapping::of_ours(names, backend),
            has_table: false,
            has_mark: false,
            mark_is_ours: false,
            has_trigger: false,
            invalid_indexes: Vec::new(),
            indexes: Vec::new(),
        }
    }

    /// Looks before `up`. Fails if there is no such table that we could use, unless it is ours to make.
    pub async fn to_add(db: &impl ConnectionTrait, names: &ThreadsTable) -> Result<Self, DbErr> {
        let table = Table::read(db, names).await?;
        // Other names than ours mean a table of the platform's: one that is not there is misspelt, not missing.
        if table.is_none() && !names.is_ours() {
            return Err(no_such_table(db, names).await?);
        }
        let ours = || Ok(Mapping::of_ours(names, db.get_database_backend()));
        let mapping = table.as_ref().map_or_else(ours, |table| table.fit(names))?;
        // What follows is made of the column that will be there.
        let mapping = Mapping { has_mark: true, ..mapping };
        Self::with(db, mapping, table.as_ref()).await
    }

    /// Looks before `down`, which also works on a table that does not fit any more, or is gone.
    pub async fn to_take_away(db: &impl ConnectionTrait, names: &ThreadsTable) -> Result<Self, DbErr> {
        let table = Table::read(db, names).await?;
        let mapping = table.as_ref().and_then(|table| table.fit(names).ok());
        let ours = || Mapping::of_ours(names, db.get_database_backend());
        Self::with(db, mapping.unwrap_or_else(ours), table.as_ref()).await
    }

    /// How to drop what an interrupted concurrent build left of `index`, which is `in_sql`, if it did.
    pub(crate) fn drop_if_invalid(&self, index: &str, in_sql: &str) -> Vec<String> {
        let is_invalid = self.invalid_indexes.iter().any(|invalid| invalid == index);
        is_invalid.then(|| format!("DROP INDEX CONCURRENTLY {in_sql}")).into_iter().collect()
    }

    /// How to drop an index of ours on MySQL, if it is there. `table` is in SQL.
    pub(crate) fn drop_if_there(&self, index: &str, table: &str) -> Vec<String> {
        let is_there = self.indexes.iter().any(|there| there == index);
        is_there.then(|| format!("ALTER TABLE {table} DROP INDEX {index}")).into_iter().collect()
    }

    async fn with(db: &impl ConnectionTrait, mapping: Mapping, table: Option<&Table>) -> Result<Self, DbErr> {
        Ok(Self {
            has_table: table.is_some(),
            has_mark: table.is_some_and(|table| table.column(&mapping.names.mark).is_some()),
            mark_is_ours: mark_is_ours(db, &mapping.names).await?,
            has_trigger: has_trigger(db, &mapping.names).await?,
            invalid_indexes: invalid_indexes(db).await?,
            indexes: indexes(db, &mapping.names).await?,
            mapping,
        })
    }
}

impl Mapping {
    /// How to address the table, all of whose columns have to be there; the mark only if `needs_mark`.
    pub async fn detect(db: &impl ConnectionTrait, names: &ThreadsTable, needs_mark: bool) -> Result<Self, DbErr> {
        let Some(table) = Table::read(db, names).await? else {
            return Err(no_such_table(db, names).await?);
        };
        if needs_mark {
            table.needed(&names.mark, "VOLUME_REAPER_THREADS_MARK_COLUMN")?;
        }
        table.fit(names)
    }
}

/// A table, as the catalogue has it.
struct Table {
    backend: DbBackend,
    /// For people.
    name: String,
    kind: String,
    columns: Vec<Column>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Column {
    name: String,
    /// As the database writes it.
    type_name: String,
    /// What kind of values it takes.
    takes: Takes,
    /// A text of any length. Looked at on MySQL only.
    is_unlimited: bool,
    is_nullable: bool,
    /// No two rows have the same.
    is_unique: bool,
    /// The database itself puts a value in, when a row is made or changed.
    fills_itself: bool,
}

/// What kind of values a column takes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Takes {
    Text,
    Blanked,
    Uuid,
    Integer,
    /// MySQL's whole numbers without a sign.
    Unsigned,
    Boolean,
    Zoned,
    Naive,
    Enum(Vec<String>),
    /// SQLite: whatever one puts in.
    Anything,
    Other,
}

type ReadColumn = fn(&QueryResult) -> Result<Column, DbErr>;

impl Table {
    async fn read(db: &impl ConnectionTrait, names: &ThreadsTable) -> Result<Option<Self>, DbErr> {
        let (sql, column): (_, ReadColumn) = match db.get_database_backend() {
            DbBackend::Postgres => (postgres_columns(names), postgres_column),
            DbBackend::Sqlite => match &names.schema {
                None => (sqlite_columns(names), sqlite_column),
                Some(_) => return refused("SQLite has no schemas: leave VOLUME_REAPER_THREADS_SCHEMA empty"),
            },
            DbBackend::MySql => match &names.schema {
                None => (mysql_columns(names), mysql_column),
                Some(_) => {
                    return refused(
                        "MySQL's schemas are its databases: name it in DATABASE_URL, and leave \
                         VOLUME_REAPER_THREADS_SCHEMA empty",
                    );
                }
            },
            other => return refused(format!("{other:?} is not supported")),
        };
        let backend = db.get_database_backend();
        let rows = query(db, sql).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let kind = first.try_get("", "kind")?;
        let columns = rows.iter().map(column).collect::<Result<_, _>>()?;
        Ok(Some(Self { backend, name: names.to_string(), kind, columns }))
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn needed(&self, name: &str, setting: &str) -> Result<&Column, DbErr> {
        let there = || listed(self.columns.iter().map(|column| column.name.clone()));
        self.column(name).ok_or_else(|| {
            DbErr::Migration(format!("table {} has no column {name:?} ({setting}); it has: {}", self.name, there()))
        })
    }

    /// How to address this table, if it can be used.
    fn fit(&self, names: &ThreadsTable) -> Result<Mapping, DbErr> {
        match self.kind.as_str() {
            "r" | "table" | "BASE TABLE" => {}
            "p" => return refused(format!("table {} is partitioned, which is not supported", self.name)),
            "v" | "m" | "view" | "VIEW" => {
                return refused(format!(
                    "{} is a view: set VOLUME_REAPER_THREADS_TABLE to the table itself",
                    self.name
                ));
            }
            "other engine" => {
                return refused(format!(
                    "table {} is not InnoDB's, and elsewhere a mark and its receipt can't be written together: \
                     ALTER TABLE ... ENGINE=InnoDB",
                    self.name
                ));
            }
            _ => return refused(format!("{} is no ordinary table", self.name)),
        }
        self.fit_closed_at(names)?;
        self.fit_host(names)?;
        Ok(Mapping {
            backend: self.backend,
            id: self.fit_id(names)?,
            closed: self.fit_closed(names)?,
            mark: self.fit_mark(names)?,
            has_mark: self.column(&names.mark).is_some(),
            status_is_unlimited: self.column(&names.status).is_some_and(|column| column.is_unlimited),
            names: names.clone(),
        })
    }

    fn fit_id(&self, names: &ThreadsTable) -> Result<IdType, DbErr> {
        let column = self.needed(&names.id, "VOLUME_REAPER_THREADS_ID_COLUMN")?;
        let id = match column.takes {
            Takes::Text | Takes::Anything => IdType::Text,
            Takes::Blanked => IdType::Blanked,
            Takes::Uuid => IdType::Uuid,
            Takes::Integer => IdType::Integer,
            Takes::Unsigned => IdType::Unsigned,
            Takes::Boolean | Takes::Zoned | Takes::Naive | Takes::Enum(_) | Takes::Other => {
                return self.misfit(column, "an id is text, a uuid or a whole number");
            }
        };
        if column.is_unique {
            Ok(id)
        } else {
            self.misfit(column, "an id is unique, and there is no index that says so")
        }
    }

    fn fit_closed(&self, names: &ThreadsTable) -> Result<Closed, DbErr> {
        let column = self.needed(&names.status, "VOLUME_REAPER_THREADS_STATUS_COLUMN")?;
        let value = &names.closed_value;
        let never = |others: &str| {
            self.misfit(column, &format!("it is never {value:?} (VOLUME_REAPER_THREADS_CLOSED_VALUE), but {others}"))
        };
        match (&column.takes, value.parse::<i64>(), value.parse::<bool>()) {
            (Takes::Text | Takes::Blanked | Takes::Anything, ..) => Ok(Closed::Text(value.clone())),
            (Takes::Enum(labels), ..) if labels.contains(value) => Ok(Closed::Text(value.clone())),
            (Takes::Enum(labels), ..) => never(&listed(labels.iter().cloned())),
            (Takes::Boolean, _, Ok(boolean)) => Ok(Closed::Boolean(boolean)),
            (Takes::Boolean, ..) => never("true or false"),
            (Takes::Integer | Takes::Unsigned, Ok(number), _) => Ok(Closed::Integer(number)),
            // The booleans of SQLite and MySQL are numbers; the latter's are `tinyint(1)`.
            (Takes::Integer, _, Ok(boolean))
                if column.type_name.to_uppercase().contains("BOOL") || column.type_name == "tinyint(1)" =>
            {
                Ok(Closed::Integer(boolean.into()))
            }
            (Takes::Integer | Takes::Unsigned, ..) => never("a whole number"),
            (Takes::Uuid | Takes::Zoned | Takes::Naive | Takes::Other, ..) => {
                self.misfit(column, "a status is text, an enum, a boolean or a whole number")
            }
        }
    }

    fn fit_closed_at(&self, names: &ThreadsTable) -> Result<(), DbErr> {
        let Some(name) = &names.closed_at else { return Ok(()) };
        let column = self.needed(name, "VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN, which may be empty")?;
        match column.takes {
            Takes::Zoned | Takes::Naive | Takes::Anything => Ok(()),
            // SQLite keeps times as texts.
            Takes::Text if self.is_of_sqlite() => Ok(()),
            _ => self.misfit(column, "the time of a close is a timestamp"),
        }
    }

    fn fit_host(&self, names: &ThreadsTable) -> Result<(), DbErr> {
        let Some(name) = &names.host else { return Ok(()) };
        let column = self.needed(name, "VOLUME_REAPER_THREADS_HOST_COLUMN, which may be empty")?;
        match column.takes {
            Takes::Text | Takes::Anything => Ok(()),
            _ => self.misfit(column, "the name of a host is text"),
        }
    }

    /// The mark's type; if the column is not there yet, the one that we give it.
    fn fit_mark(&self, names: &ThreadsTable) -> Result<MarkType, DbErr> {
        let Some(column) = self.column(&names.mark) else { return self.fit_no_mark(names) };
        let mark = match column.takes {
            Takes::Zoned | Takes::Anything => MarkType::Zoned,
            // MySQL's times are in UTC by agreement, and its connections in UTC by ours.
            Takes::Naive if self.backend == DbBackend::MySql => MarkType::Zoned,
            Takes::Naive => MarkType::Naive,
            Takes::Text if self.is_of_sqlite() => MarkType::Zoned,
            _ => return self.misfit(column, "a mark is a timestamp"),
        };
        if !column.is_nullable {
            return self.misfit(column, "a mark is null until the volume is gone");
        }
        if column.fills_itself {
            return self.misfit(column, "a mark is null until the volume is gone, and this column fills itself");
        }
        Ok(mark)
    }

    /// PostgreSQL alone could have our column beside one whose name differs from it in case.
    fn fit_no_mark(&self, names: &ThreadsTable) -> Result<MarkType, DbErr> {
        let similar = self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(&names.mark));
        match similar {
            Some(column) if self.backend != DbBackend::Postgres => refused(format!(
                "table {} has a column {:?}: write VOLUME_REAPER_THREADS_MARK_COLUMN in the same way",
                self.name, column.name
            )),
            Some(_) | None => Ok(MarkType::Zoned),
        }
    }

    fn is_of_sqlite(&self) -> bool {
        self.backend == DbBackend::Sqlite
    }

    fn misfit<T>(&self, column: &Column, why: &str) -> Result<T, DbErr> {
        refused(format!("column {:?} of table {} is {}: {why}", column.name, self.name, column.type_name))
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, DbErr> {
    Err(DbErr::Migration(why.into()))
}

/// In PostgreSQL's own catalogue: that of the standard shows only what one may touch.
fn postgres_columns(names: &ThreadsTable) -> String {
    format!(
        "SELECT CAST(class.relkind AS text) AS kind, CAST(attname AS text) AS name, NOT attnotnull AS is_nullable, \
         format_type(atttypid, atttypmod) AS type_name, CAST(base.typname AS text) AS base, \
         (SELECT string_agg(CAST(enumlabel AS text), chr(10) ORDER BY enumsortorder) FROM pg_enum \
          WHERE enumtypid = base.oid) AS labels, atthasdef AS fills_itself, \
         EXISTS (SELECT 1 FROM pg_index WHERE indrelid = attrelid AND indisunique AND indisvalid AND indpred IS NULL \
          AND indnkeyatts = 1 AND indkey[0] = attnum) AS is_unique \
         FROM pg_attribute JOIN pg_class class ON class.oid = attrelid JOIN pg_type type ON type.oid = atttypid \
         JOIN pg_type base ON base.oid = CASE type.typtype WHEN 'd' THEN type.typbasetype ELSE type.oid END \
         WHERE attrelid = to_regclass({}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        literal(DbBackend::Postgres, &names.table_sql(DbBackend::Postgres))
    )
}

fn postgres_column(row: &QueryResult) -> Result<Column, DbErr> {
    let labels: Option<String> = row.try_get("", "labels")?;
    let base: String = row.try_get("", "base")?;
    let takes = match (labels, base.as_str()) {
        (Some(labels), _) => Takes::Enum(labels.lines().map(str::to_owned).collect()),
        (None, "text" | "varchar") => Takes::Text,
        (None, "bpchar") => Takes::Blanked,
        (None, "uuid") => Takes::Uuid,
        (None, "int2" | "int4" | "int8") => Takes::Integer,
        (None, "bool") => Takes::Boolean,
        (None, "timestamptz") => Takes::Zoned,
        (None, "timestamp") => Takes::Naive,
        (None, _) => Takes::Other,
    };
    Ok(Column {
        name: row.try_get("", "name")?,
        type_name: row.try_get("", "type_name")?,
        takes,
        is_unlimited: false,
        is_nullable: row.try_get("", "is_nullable")?,
        is_unique: row.try_get("", "is_unique")?,
        fills_itself: row.try_get("", "fills_itself")?,
    })
}

fn sqlite_columns(names: &ThreadsTable) -> String {
    let table = literal(DbBackend::Sqlite, &names.table);
    format!(
        "SELECT (SELECT type FROM sqlite_master WHERE name = {table} COLLATE NOCASE AND type IN ('table', 'view')) \
         AS kind, name, type AS type_name, NOT \"notnull\" AS is_nullable, \
         coalesce(upper(dflt_value), 'NULL') <> 'NULL' AS fills_itself, \
         (pk = 1 AND (SELECT max(pk) FROM pragma_table_info({table})) = 1) OR EXISTS (\
          SELECT 1 FROM pragma_index_list({table}) AS list WHERE list.\"unique\" AND NOT list.partial \
          AND (SELECT group_concat(coalesce(info.name, ''), '/') FROM pragma_index_info(list.name) AS info) \
          = columns.name) AS is_unique FROM pragma_table_info({table}) AS columns ORDER BY cid"
    )
}

/// By the rules of a column's affinity (sqlite.org/datatype3.html, 3.1), since SQLite has no other types.
fn sqlite_column(row: &QueryResult) -> Result<Column, DbErr> {
    let type_name: String = row.try_get("", "type_name")?;
    let upper = type_name.to_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| upper.contains(part));
    let takes = if has(&["INT", "BOOL"]) {
        Takes::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Takes::Text
    } else if has(&["BLOB", "REAL", "FLOA", "DOUB"]) {
        Takes::Other
    } else {
        Takes::Anything
    };
    Ok(Column {
        name: row.try_get("", "name")?,
        type_name,
        takes,
        is_unlimited: false,
        is_nullable: row.try_get("", "is_nullable")?,
        is_unique: row.try_get("", "is_unique")?,
        fills_itself: row.try_get("", "fills_itself")?,
    })
}

/// Names of tables are told apart by case unless the server says that they are not.
fn mysql_columns(names: &ThreadsTable) -> String {
    let table = literal(DbBackend::MySql, &names.table);
    format!(
        "SELECT CASE WHEN tables.table_type = 'BASE TABLE' AND tables.engine <> 'InnoDB' THEN 'other engine' \
         ELSE CAST(tables.table_type AS char) END AS kind, CAST(columns.column_name AS char) AS name, \
         coalesce(columns.column_default, 'NULL') <> 'NULL' OR columns.extra LIKE '%on update%' \
          OR columns.extra LIKE '%generated%' AS fills_itself, \
         columns.is_nullable = 'YES' AS is_nullable, CAST(columns.column_type AS char) AS type_name, \
         CAST(columns.data_type AS char) AS base, EXISTS (\
          SELECT 1 FROM information_schema.statistics AS found WHERE found.table_schema = columns.table_schema \
          AND found.table_name = columns.table_name AND found.column_name = columns.column_name \
          AND found.non_unique = 0 AND found.sub_part IS NULL AND NOT EXISTS (\
           SELECT 1 FROM information_schema.statistics AS other WHERE other.table_schema = found.table_schema \
           AND other.table_name = found.table_name AND other.index_name = found.index_name AND other.seq_in_index > 1)\
         ) AS is_unique \
         FROM information_schema.columns AS columns JOIN information_schema.tables AS tables \
         ON tables.table_schema = columns.table_schema AND tables.table_name = columns.table_name \
         WHERE columns.table_schema = DATABASE() AND columns.table_name = {table} \
         AND (BINARY columns.table_name = {table} OR @@lower_case_table_names > 0) ORDER BY columns.ordinal_position"
    )
}

fn mysql_column(row: &QueryResult) -> Result<Column, DbErr> {
    let (type_name, base): (String, String) = (row.try_get("", "type_name")?, row.try_get("", "base")?);
    let takes = match base.as_str() {
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Takes::Text,
        "enum" => Takes::Enum(mysql_labels(&type_name)),
        "uuid" => Takes::Uuid,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" if type_name.contains("unsigned") => Takes::Unsigned,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => Takes::Integer,
        "bit" if type_name == "bit(1)" => Takes::Boolean,
        "datetime" | "timestamp" => Takes::Naive,
        _ => Takes::Other,
    };
    Ok(Column {
        name: row.try_get("", "name")?,
        takes,
        is_unlimited: base.ends_with("text"),
        is_nullable: row.try_get("", "is_nullable")?,
        is_unique: row.try_get("", "is_unique")?,
        fills_itself: row.try_get("", "fills_itself")?,
        type_name,
    })
}

/// The labels in a type such as `enum('open','it''s closed')`.
fn mysql_labels(type_name: &str) -> Vec<String> {
    let labels = type_name.strip_prefix("enum('").and_then(|rest| rest.strip_suffix("')")).unwrap_or_default();
    labels.split("','").map(|label| label.replace("''", "'")).collect()
}

/// That there is no such table, and which there are.
async fn no_such_table(db: &impl ConnectionTrait, names: &ThreadsTable) -> Result<DbErr, DbErr> {
    let sql = match db.get_database_backend() {
        DbBackend::Postgres => {
            "SELECT CASE WHEN pg_table_is_visible(pg_class.oid) THEN CAST(relname AS text) \
         ELSE nspname || '.' || relname END AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
         WHERE relkind IN ('r', 'p') AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1"
        }
        DbBackend::MySql => {
            "SELECT CAST(table_name AS char) AS name FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY 1"
        }
        _ => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY 1",
    };
    let rows = query(db, sql.to_owned()).await?;
    let there = rows.iter().map(|row| row.try_get::<String>("", "name")).collect::<Result<Vec<_>, _>>()?;
    let there = if there.is_empty() { "none".to_owned() } else { listed(there.into_iter()) };
    Ok(DbErr::Migration(format!(
        "there is no table {names} in this database (VOLUME_REAPER_THREADS_TABLE and _SCHEMA); there are: {there}"
    )))
}

/// The names, as far as they help.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let names = names.take(NAMES_SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}

async fn mark_is_ours(db: &impl ConnectionTrait, names: &ThreadsTable) -> Result<bool, DbErr> {
    let backend = db.get_database_backend();
    let is_there = match backend {
        DbBackend::Postgres => format!("SELECT 1 WHERE to_regclass('{ADDITIONS_TABLE}') IS NOT NULL"),
        DbBackend::MySql => format!(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{ADDITIONS_TABLE}'"
        ),
        _ => format!("SELECT 1 FROM sqlite_master WHERE name = '{ADDITIONS_TABLE}'"),
    };
    if query(db, is_there).await?.is_empty() {
        return Ok(false);
    }
    let (table, column) = (literal(backend, &names.table_sql(backend)), literal(backend, &names.mark));
    let ours = format!("SELECT 1 FROM {ADDITIONS_TABLE} WHERE table_name = {table} AND column_name = {column}");
    Ok(!query(db, ours).await?.is_empty())
}

async fn has_trigger(db: &impl ConnectionTrait, names: &ThreadsTable) -> Result<bool, DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(false);
    }
    let table = literal(DbBackend::Postgres, &names.table_sql(DbBackend::Postgres));
    let there =
        format!("SELECT 1 FROM pg_trigger WHERE tgname = '{REOPEN_TRIGGER}' AND tgrelid = to_regclass({table})");
    Ok(!query(db, there).await?.is_empty())
}

async fn invalid_indexes(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(Vec::new());
    }
    let invalid = "SELECT CAST(relname AS text) AS name FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
                   WHERE relname LIKE 'volume!_re%' ESCAPE '!' AND NOT indisvalid";
    query(db, invalid.to_owned()).await?.iter().map(|row| row.try_get("", "name")).collect()
}

async fn indexes(db: &impl ConnectionTrait, names: &ThreadsTable) -> Result<Vec<String>, DbErr> {
    if db.get_database_backend() != DbBackend::MySql {
        return Ok(Vec::new());
    }
    let table = literal(DbBackend::MySql, &names.table);
    let ours = format!(
        "SELECT DISTINCT CAST(index_name AS char) AS name FROM information_schema.statistics \
         WHERE table_schema = DATABASE() AND table_name IN ({table}, 'volume_removals') AND index_name LIKE 'volume!_re%' \
         ESCAPE '!'"
    );
    query(db, ours).await?.iter().map(|row| row.try_get("", "name")).collect()
}

async fn query(db: &impl ConnectionTrait, sql: String) -> Result<Vec<QueryResult>, DbErr> {
    db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await
}

impl ThreadsTable {
    /// The table in SQL, with its schema if one is set.
    #[must_use]
    pub fn table_sql(&self, backend: DbBackend) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(backend, schema), quoted(backend, &self.table)),
            None => quoted(backend, &self.table),
        }
    }
}

impl std::fmt::Display for ThreadsTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema:?}.{:?}", self.table),
            None => write!(f, "{:?}", self.table),
        }
    }
}
