//! The forms of the list: lines for people, one JSON object, CSV. Each page is written when it is read.

use crate::{
    failure::Failure,
    operations::audit_trail::{ReceiptTable, unwritable},
    store::{ListedReceipt, ReceiptPlace},
    terminal::{Plain, time},
};

/// A form of the list.
pub(super) enum Form {
    Lines,
    Json {
        /// Whether something stands there already.
        is_begun: bool,
    },
    Csv(ReceiptTable),
}

impl Form {
    pub(super) fn of(as_json: bool, as_csv: bool) -> Self {
        match (as_json, as_csv) {
            (true, _) => Self::Json { is_begun: false },
            (false, true) => Self::Csv(ReceiptTable::default()),
            (false, false) => Self::Lines,
        }
    }

    pub(super) fn is_for_people(&self) -> bool {
        matches!(self, Self::Lines)
    }

    pub(super) fn begin(&self) -> String {
        match self {
            Self::Lines => {
                format!(
                    "{:<20}  {:<36}  {:<9}  {:<7}  {:<12}  {:>10}  by\n",
                    "time", "thread", "outcome", "source", "host", "bytes"
                )
            }
            Self::Json { .. } => "{\"receipts\":[".to_owned(),
            Self::Csv(_) => String::new(),
        }
    }

    pub(super) fn page(&mut self, receipts: &[ListedReceipt]) -> Result<String, Failure> {
        match self {
            Self::Lines => Ok(receipts.iter().map(line).collect()),
            Self::Json { is_begun } => {
                let mut text = String::new();
                for receipt in receipts {
                    if std::mem::replace(is_begun, true) {
                        text.push(',');
                    }
                    text.push_str(&serde_json::to_string(receipt).map_err(|error| unwritable(&error))?);
                }
                Ok(text)
            }
            Self::Csv(table) => table.page(receipts),
        }
    }

    /// What comes last. `next` is where the next page begins, if there is one.
    pub(super) fn end(&self, next: Option<ReceiptPlace>) -> String {
        match (self, next) {
            (Self::Lines, None) | (Self::Csv(_), _) => String::new(),
            (Self::Lines, Some(next)) => format!("more: --after {next}\n"),
            (Self::Json { .. }, None) => "],\"next\":null}\n".to_owned(),
            (Self::Json { .. }, Some(next)) => format!("],\"next\":\"{next}\"}}\n"),
        }
    }
}

fn line(receipt: &ListedReceipt) -> String {
    let ListedReceipt { removed_at, thread_id, outcome, source, host, bytes, actor, replica, .. } = receipt;
    let host = Plain(host.as_deref().unwrap_or("-")).to_string();
    let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
    let (thread, by) = (Plain(thread_id).to_string(), Plain(actor.as_ref().unwrap_or(replica)));
    let at = time(*removed_at);
    format!("{at}  {thread:<36}  {outcome:<9}  {source:<7}  {host:<12}  {bytes:>10}  {by}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> ListedReceipt {
        ListedReceipt {
            id: 42,
            removed_at: "2026-11-23T12:00:00.123Z".parse().expect("a time"),
            thread_id: "9f6b2c1e-0c1d-4f7a-9a57-0d8f6a1f2b3c".to_owned(),
            volume_name: "ha_ws_9f6b2c1e-0c1d-4f7a-9a57-0d8f6a1f2b3c".to_owned(),
            outcome: "removed".to_owned(),
            source: "event".to_owned(),
            event_id: Some("a \"quoted\", id\x1b".to_owned()),
            host: Some("default".to_owned()),
            daemon: Some("ID".to_owned()),
            bytes: Some(1024),
            duration_ms: Some(7),
            actor: None,
            container_id: None,
            container_name: None,
            replica: "replica-1".to_owned(),
            chain_id: Some("c".to_owned()),
            chain_sequence: Some(1),
            chain_hash: Some("h".to_owned()),
        }
    }

    fn whole(mut form: Form, receipts: &[ListedReceipt]) -> String {
        let pages: String = receipts.iter().map(|one| form.page(std::slice::from_ref(one)).expect("a page")).collect();
        let pages = if receipts.is_empty() { form.page(&[]).expect("a page") } else { pages };
        format!("{}{pages}{}", form.begin(), form.end(receipts.last().map(ListedReceipt::place)))
    }

    #[test]
    fn the_list_reads_well_in_each_form() {
        let unknown = ListedReceipt { id: 41, bytes: None, host: None, event_id: None, ..receipt() };
        let all = [receipt(), unknown];
        let forms = [(false, false), (true, false), (false, true)];
        let texts = forms.map(|(json, csv)| whole(Form::of(json, csv), &all));
        insta::assert_snapshot!("list", texts.join("\n"));
        let parsed: serde_json::Value = serde_json::from_str(&texts[1]).expect("one object");
        assert_eq!((&parsed["receipts"][0]["id"], &parsed["next"]), (&42.into(), &"1795435200123-41".into()));
    }

    #[test]
    fn an_empty_list_is_an_empty_list() {
        assert_eq!(whole(Form::of(true, false), &[]), "{\"receipts\":[],\"next\":null}\n");
        let heads = serde_json::to_value(receipt()).expect("an object");
        let mut names: Vec<_> = heads.as_object().expect("an object").keys().map(String::as_str).collect();
        let head = whole(Form::of(false, true), &[]);
        let mut columns: Vec<_> = head.trim_end().split(',').collect();
        names.sort_unstable();
        columns.sort_unstable();
        assert_eq!(columns, names, "the columns of a list that is not empty");
    }
}
