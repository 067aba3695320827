//! `receipts`: the audit trail as a list, and whether it is as it was written. Looks, and changes nothing.

mod forms;

use std::process::ExitCode;

use chrono::Utc;

use self::forms::Form;
use super::output::{self, json, reader_is_gone, say, write};
use crate::{
    cli::{ReceiptsAction, ReceiptsSelection},
    config::Config,
    failure::Failure,
    operations::{audit_trail::point, read_only_store, receipt_pages::page, require_schema},
    progress,
    store::{ListedReceipt, ReceiptFilter, ReceiptPlace, Store, Verification},
    terminal::Plain,
};

/// Receipts of a page; what is read at once and held in memory.
const PAGE: usize = 1000;
/// Lines for people, unless a limit is given: a screen or three.
const SHOWN: u64 = 100;
/// Chains whose end is shown to people; `--json` has all.
const FLAWS_SHOWN: usize = 100;

/// Receipts, and where the next ones begin.
type Page = (Vec<ListedReceipt>, Option<ReceiptPlace>);

pub(super) async fn run(
    config: &Config,
    action: Option<ReceiptsAction>,
    selection: ReceiptsSelection,
) -> Result<ExitCode, Failure> {
    let store = read_only_store(config).await?;
    require_schema(&store, config).await?;
    let done = match action {
        None => {
            let page = async |filter: &ReceiptFilter, after, limit| page(&store, filter, after, limit).await;
            list(selection, page).await.map(|()| true)
        }
        Some(ReceiptsAction::Verify { json }) => verify(&store, json).await,
    };
    store.close().await?;
    done.map(|whole| if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the list out of pages, each of at most as many receipts as it is asked for, behind a place, and with where
/// the next one begins.
pub(super) async fn list(
    selection: ReceiptsSelection,
    pages: impl AsyncFn(&ReceiptFilter, Option<ReceiptPlace>, usize) -> Result<Page, Failure>,
) -> Result<(), Failure> {
    let now = Utc::now();
    let time = |name: &str, text: Option<&str>| text.map(|text| point(name, text, now)).transpose();
    let filter = ReceiptFilter {
        since: time("--since", selection.since.as_deref()).map_err(Failure::permanent)?,
        until: time("--until", selection.until.as_deref()).map_err(Failure::permanent)?,
        thread: selection.thread.map(|thread| thread.to_string()),
        host: selection.host,
        outcome: selection.outcome,
    };
    let mut form = Form::of(selection.json, selection.csv);
    let mut left = selection.limit.unwrap_or(if form.is_for_people() { SHOWN } else { u64::MAX });
    let (mut after, mut next) = (selection.after, None);
    // Lines for people are cut where their terminal ends.
    let print = if form.is_for_people() { output::list } else { write };
    print(&form.begin())?;
    while left > 0 {
        let (receipts, behind) = pages(&filter, after, usize::try_from(left).unwrap_or(PAGE).min(PAGE)).await?;
        left = left.saturating_sub(receipts.len() as u64);
        next = behind;
        print(&form.page(&receipts)?)?;
        if next.is_none() || reader_is_gone() {
            break;
        }
        after = next;
    }
    write(&form.end(next))
}

/// Whether all receipts are as they were written.
async fn verify(store: &Store, as_json: bool) -> Result<bool, Failure> {
    progress::show(u64::try_from(store.latest_receipt().await?).unwrap_or_default());
    let found = store.verify_receipts(progress::advance_to).await;
    progress::clear();
    let found = found?;
    if as_json {
        say(json(&found))?;
    } else {
        write(&text(&found))?;
    }
    Ok(found.whole)
}

fn text(Verification { whole, receipts, chains, flaws, .. }: &Verification) -> String {
    let mut lines: Vec<_> = flaws.iter().take(FLAWS_SHOWN).map(|flaw| Plain(&flaw.to_string()).to_string()).collect();
    if flaws.len() > FLAWS_SHOWN {
        lines.push(format!("and {} more, which --json has", flaws.len() - FLAWS_SHOWN));
    }
    lines.push(if *whole {
        format!("{receipts} receipts in {chains} chains are as they were written")
    } else {
        format!("{receipts} receipts in {chains} chains: {} things are wrong", flaws.len())
    });
    lines.into_iter().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Flaw;

    #[test]
    fn a_verification_reads_well() {
        let whole = Verification { whole: true, receipts: 12, chains: 3, ..Verification::default() };
        let flaws = vec![
            Flaw::Edited { id: 7, thread_id: "t\x1b7".to_owned() },
            Flaw::Missing { chain_id: "c".to_owned(), from: 3, to: 5 },
            Flaw::Inserted { id: 9, thread_id: "t9".to_owned() },
        ];
        let broken = Verification { whole: false, flaws, ..whole.clone() };
        insta::assert_snapshot!("verification", format!("{}\n{}", text(&whole), text(&broken)));
    }
}
