//! The list of what people did by the command line.

use serde_json::Value;
use tracing::warn;

use crate::{
    config::Config,
    failure::Failure,
    operations::{person, store, store_to_look_at},
    store::{Act, Store},
};

/// What a person does by the command line.
pub(super) fn act(action: &'static str, target: Option<&str>, details: Value) -> Act {
    Act { via: "command", action, target: target.map(str::to_owned), details }
}

/// Writes down what was done and how it went, and passes that on. What can't be written down was done all the same.
pub(super) async fn noted<R>(store: &Store, act: &Act, done: Result<R, Failure>) -> Result<R, Failure> {
    if let Err(error) = store.note_act(&person(), act, done.as_ref().err()).await {
        warn!(%error, action = act.action, "it can't be written down who did this");
    }
    done
}

/// Writes down what was done by a command that opens no database of its own, where there is one of ours.
pub(super) async fn noted_if_there<R>(config: &Config, act: &Act, done: Result<R, Failure>) -> Result<R, Failure> {
    // Nothing is made for that: who has only a broker's address keeps an empty directory.
    let is_there = async {
        let looked = store_to_look_at(config).await?;
        let pending = looked.pending_migrations().await;
        let _ = looked.close().await;
        Ok::<_, Failure>(pending?.is_empty())
    };
    match is_there.await {
        Ok(true) => {}
        Ok(false) => return done,
        Err(error) => {
            warn!(%error, action = act.action, "it can't be written down who did this");
            return done;
        }
    }
    match store(config).await {
        Ok(store) => {
            let done = noted(&store, act, done).await;
            let _ = store.close().await;
            done
        }
        Err(error) => {
            warn!(%error, action = act.action, "it can't be written down who did this");
            done
        }
    }
}
