//! What was done: receipts, sweeps, acts of people.

use askama::Template;
use chrono::Utc;
use serde::Deserialize;

use super::looks::{Frame, OperationLine, address, found_at, moment};
use crate::{
    console::{
        operation::sweep_in_words,
        problem::Problem,
        queries::{ActionsPage, RemovalsPage, RemovalsQuery, SweepsPage},
    },
    operations::audit_trail::point,
    store::{ListedReceipt, LoggedAct, LoggedSweep},
    sweep::SweepReport,
    terminal::amount,
};

/// Which receipts, as a person types it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RemovalsForm {
    thread: String,
    host: String,
    outcome: String,
    /// A time, or a duration ago.
    since: String,
    until: String,
    after: String,
}

/// The receipts.
#[derive(Template)]
#[template(path = "removals.html")]
pub(super) struct Removals {
    frame: Frame,
    form: RemovalsForm,
    /// The filters, for the download.
    selected: String,
    is_filtered: bool,
    rows: Vec<ReceiptRow>,
    next: Option<String>,
}

struct ReceiptRow {
    at: String,
    thread: String,
    link: String,
    outcome: String,
    source: String,
    host: String,
    bytes: String,
    took: String,
    by: String,
}

/// The sweeps.
#[derive(Template)]
#[template(path = "sweeps.html")]
pub(super) struct Sweeps {
    frame: Frame,
    operation: Option<OperationLine>,
    rows: Vec<SweepRow>,
    next: Option<String>,
}

pub(super) struct SweepRow {
    pub(super) id: String,
    pub(super) is_stopping: bool,
    pub(super) began: String,
    pub(super) is_running: bool,
    pub(super) took: String,
    pub(super) host: String,
    pub(super) by: String,
    pub(super) what: String,
}

/// What people did.
#[derive(Template)]
#[template(path = "activity.html")]
pub(super) struct Activity {
    frame: Frame,
    rows: Vec<ActRow>,
    next: Option<String>,
}

struct ActRow {
    at: String,
    who: String,
    via: String,
    action: String,
    target: String,
    details: String,
    error: String,
}

impl RemovalsForm {
    /// What is asked of the list.
    pub(super) fn query(&self) -> Result<RemovalsQuery, Problem> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let at = |name, text: &str| {
            given(text).map(|text| point(name, &text, Utc::now())).transpose().map_err(Problem::invalid)
        };
        Ok(RemovalsQuery {
            thread: given(&self.thread),
            outcome: given(&self.outcome),
            host: given(&self.host),
            since: at("since", &self.since)?,
            until: at("until", &self.until)?,
            limit: None,
            after: given(&self.after),
        })
    }

    fn address(&self, after: &str) -> String {
        let Self { thread, host, outcome, since, until, .. } = self;
        let filters = [("thread", thread), ("host", host), ("outcome", outcome), ("since", since), ("until", until)];
        let filters = filters.map(|(name, value)| (name, value.as_str()));
        address(&filters.into_iter().chain([("after", after)]).collect::<Vec<_>>())
    }
}

impl Removals {
    pub(super) fn new(frame: Frame, form: RemovalsForm, page: RemovalsPage) -> Self {
        let selected = form.address("");
        Self {
            frame,
            is_filtered: !selected.is_empty(),
            selected,
            rows: page.removals.into_iter().map(ReceiptRow::new).collect(),
            next: page.next.map(|next| form.address(&next)),
            form,
        }
    }
}

impl ReceiptRow {
    fn new(receipt: ListedReceipt) -> Self {
        let container = receipt.container_name.map(|name| format!("container {name}, then "));
        Self {
            at: moment(Some(receipt.removed_at)),
            link: found_at(&receipt.thread_id),
            thread: receipt.thread_id,
            outcome: format!("{}{}", container.unwrap_or_default(), receipt.outcome),
            source: receipt.source,
            host: receipt.host.unwrap_or_default(),
            bytes: receipt.bytes.and_then(|bytes| u64::try_from(bytes).ok()).map(amount).unwrap_or_default(),
            took: receipt.duration_ms.map(|millis| format!("{millis} ms")).unwrap_or_default(),
            by: receipt.actor.unwrap_or(receipt.replica),
        }
    }
}

impl Sweeps {
    pub(super) fn new(frame: Frame, operation: Option<OperationLine>, page: SweepsPage) -> Self {
        Self {
            frame,
            operation,
            rows: page.sweeps.into_iter().map(SweepRow::new).collect(),
            next: page.next.map(|after| address(&[("after", &after)])),
        }
    }
}

impl SweepRow {
    pub(super) fn new(sweep: LoggedSweep) -> Self {
        let is_running = sweep.ended_at.is_none();
        let is_stopping = sweep.skipped_reason.is_some();
        let report = sweep.report.and_then(|report| serde_json::from_value::<SweepReport>(report).ok());
        let what = match (report, sweep.skipped_reason) {
            (Some(report), _) => sweep_in_words(&report),
            (None, Some(why)) if is_running => format!("is being {why}"),
            (None, Some(why)) => format!("not done: {why}"),
            (None, None) if is_running => "it runs".to_owned(),
            (None, None) => String::new(),
        };
        Self {
            id: sweep.id,
            is_stopping,
            began: moment(Some(sweep.began_at)),
            is_running,
            took: sweep.duration_ms.map(|millis| format!("{millis} ms")).unwrap_or_default(),
            host: sweep.host.unwrap_or_default(),
            by: match sweep.actor {
                Some(actor) => format!("{actor}, on {}", sweep.replica),
                None => format!("{} ({})", sweep.replica, sweep.cause),
            },
            what,
        }
    }
}

impl Activity {
    pub(super) fn new(frame: Frame, page: ActionsPage) -> Self {
        Self {
            frame,
            rows: page.actions.into_iter().map(ActRow::new).collect(),
            next: page.next.map(|after| address(&[("after", &after)])),
        }
    }
}

impl ActRow {
    fn new(act: LoggedAct) -> Self {
        Self {
            at: moment(Some(act.done_at)),
            who: act.actor,
            via: act.via,
            action: act.action,
            target: act.target.unwrap_or_default(),
            details: act.details.map(|details| in_words(&details)).unwrap_or_default(),
            error: act.error.unwrap_or_default(),
        }
    }
}

/// The details of an act, without what was not said.
fn in_words(details: &serde_json::Value) -> String {
    let Some(details) = details.as_object() else { return details.to_string() };
    let is_said = |value: &serde_json::Value| !value.is_null() && *value != 0 && *value != false;
    let said = details.iter().filter(|(_, value)| is_said(value));
    let words = said.map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name}: {text}"),
        None => format!("{name}: {value}"),
    });
    words.collect::<Vec<_>>().join("; ")
}
