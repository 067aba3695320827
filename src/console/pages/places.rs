//! What there is: hosts, volumes without a thread, holds, and what can silently be wrong.

use askama::Template;
use chrono::Utc;

use super::looks::{Frame, OperationLine, address, count, found_at, moment};
use crate::{
    console::queries::{HoldsPage, OrphansPage, OrphansQuery},
    operations::{
        doctor::findings::{Report as DoctorReport, Status},
        finding::Orphan,
        fleet_view::{HostView, Hosts},
        status::COUNTED,
    },
    store::ListedHold,
    terminal::{amount, time},
};

/// The Docker hosts.
#[derive(Template)]
#[template(path = "hosts.html")]
pub(super) struct HostList {
    frame: Frame,
    rows: Vec<HostRow>,
    has_several: bool,
    without_host: u64,
    /// There are more closed threads than were counted.
    more_than: Option<String>,
}

struct HostRow {
    name: String,
    endpoint: String,
    is_well: bool,
    state: String,
    volumes: String,
    unmarked: String,
}

/// The volumes without a thread.
#[derive(Template)]
#[template(path = "orphans.html")]
pub(super) struct OrphanList {
    frame: Frame,
    operation: Option<OperationLine>,
    volumes: usize,
    foreign: usize,
    /// How old they are at least, as a person typed it.
    older_than: String,
    matching: usize,
    seen: String,
    rows: Vec<OrphanRow>,
    next: Option<String>,
}

struct OrphanRow {
    volume: String,
    link: String,
    thread: String,
    created: String,
    size: String,
    host: String,
    users: String,
}

/// The holds.
#[derive(Template)]
#[template(path = "holds.html")]
pub(super) struct HoldList {
    frame: Frame,
    rows: Vec<HoldRow>,
    next: Option<String>,
}

struct HoldRow {
    thread: String,
    link: String,
    reason: String,
    held: String,
    until: String,
}

/// What `doctor` found.
#[derive(Template)]
#[template(path = "health.html")]
pub(super) struct HealthList {
    frame: Frame,
    verdict: String,
    rows: Vec<CheckRow>,
}

struct CheckRow {
    status: Status,
    name: String,
    why: String,
    fix: String,
}

impl HostList {
    pub(super) fn new(frame: Frame, hosts: &Hosts) -> Self {
        Self {
            frame,
            rows: hosts.hosts.iter().map(HostRow::new).collect(),
            has_several: hosts.hosts.len() > 1,
            without_host: hosts.unmarked_without_host,
            more_than: hosts.too_many_to_count.then(|| count(COUNTED)),
        }
    }
}

impl HostRow {
    fn new(host: &HostView) -> Self {
        let (is_well, state) = match (&host.endpoint, &host.pinned, &host.answering, &host.error) {
            (None, Some(_), _, _) => (false, "pinned, and none of this configuration's".to_owned()),
            (None, None, _, _) => (false, "nothing but threads' rows knows it".to_owned()),
            (Some(_), _, _, Some(error)) => (false, format!("does not answer: {error}")),
            (Some(_), Some(pinned), Some(answering), None) if pinned != answering => {
                let what = format!(
                    "{answering} answers, and {pinned} is pinned: `volume-reaper hosts adopt` if it was \
                                    replaced for good"
                );
                (false, what)
            }
            (Some(_), Some(pinned), Some(_), None) => (true, format!("answers: {pinned}")),
            (Some(_), None, Some(answering), None) => (true, format!("answers: {answering}; not pinned yet")),
            (Some(_), _, None, None) => (false, "is not asked".to_owned()),
        };
        let known = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        Self {
            name: host.name.clone(),
            endpoint: host.endpoint.clone().unwrap_or_default(),
            is_well,
            state,
            volumes: known(host.volumes.map(|volumes| volumes as u64)),
            unmarked: known(host.unmarked),
        }
    }
}

impl OrphanList {
    pub(super) fn new(frame: Frame, operation: Option<OperationLine>, query: &OrphansQuery, page: OrphansPage) -> Self {
        let older_than = query.older_than.clone().unwrap_or_default();
        let next = page.next.map(|after| address(&[("older_than", &older_than), ("after", &after)]));
        Self {
            frame,
            operation,
            older_than,
            matching: page.matching,
            seen: page.seen,
            next,
            volumes: page.volumes,
            foreign: page.foreign,
            rows: page.orphans.into_iter().map(OrphanRow::new).collect(),
        }
    }
}

impl OrphanRow {
    fn new(orphan: Orphan) -> Self {
        Self {
            volume: orphan.volume.to_string(),
            link: found_at(orphan.thread_id.as_str()),
            thread: orphan.thread_id.to_string(),
            created: orphan.created_at.map_or("unknown".to_owned(), |at| moment(Some(at))),
            size: orphan.size_bytes.map_or("unknown".to_owned(), amount),
            host: orphan.host.unwrap_or_default(),
            users: match orphan.users.len() {
                0 => "nobody".to_owned(),
                _ => orphan.users.iter().map(|id| id.chars().take(12).collect()).collect::<Vec<String>>().join(", "),
            },
        }
    }
}

impl HoldList {
    pub(super) fn new(frame: Frame, page: HoldsPage) -> Self {
        Self {
            frame,
            rows: page.holds.into_iter().map(HoldRow::new).collect(),
            next: page.next.map(|after| address(&[("after", &after)])),
        }
    }
}

impl HoldRow {
    fn new(ListedHold { thread_id, hold }: ListedHold) -> Self {
        let now = Utc::now();
        let until = match hold.until {
            None => "it is released".to_owned(),
            Some(until) if until <= now => format!("{}: it is over", time(until)),
            until @ Some(_) => moment(until),
        };
        Self {
            link: found_at(&thread_id),
            thread: thread_id,
            reason: hold.reason,
            held: moment(Some(hold.held_at)),
            until,
        }
    }
}

impl HealthList {
    pub(super) fn new(frame: Frame, report: &DoctorReport) -> Self {
        let count = |wanted| report.checks.iter().filter(|check| check.status == wanted).count();
        let verdict = match (count(Status::Fail), count(Status::Warn)) {
            (0, 0) => "Nothing is silently wrong".to_owned(),
            (0, warned) => format!("{warned} to look at"),
            (failed, 0) => format!("{failed} failed"),
            (failed, warned) => format!("{failed} failed, {warned} to look at"),
        };
        // What is wrong comes first, and the rest in its order.
        let rank = |status: Status| match status {
            Status::Fail => 0,
            Status::Warn => 1,
            Status::Ok => 2,
        };
        let mut rows: Vec<_> = report.checks.iter().collect();
        rows.sort_by_key(|check| rank(check.status));
        let row = |check: &crate::operations::doctor::findings::Check| CheckRow {
            status: check.status,
            name: check.name.clone(),
            why: check.why.clone(),
            fix: check.fix.clone().unwrap_or_default(),
        };
        Self { frame, verdict, rows: rows.into_iter().map(row).collect() }
    }
}

impl CheckRow {
    fn class(&self) -> &'static str {
        match self.status {
            Status::Ok => "well",
            Status::Warn => "doubt",
            Status::Fail => "ill",
        }
    }

    fn mark(&self) -> &'static str {
        match self.status {
            Status::Ok => "OK",
            Status::Warn => "Look",
            Status::Fail => "Failed",
        }
    }
}
