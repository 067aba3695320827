//! `hosts`: the Docker daemon whose word counts.

use std::process::ExitCode;

use super::{DAEMON, docker, output::say, prepare_database, store};
use crate::{cli::HostsAction, config::Config, failure::Failure};

pub(super) async fn run(config: &Config, action: HostsAction) -> Result<ExitCode, Failure> {
    let store = store(config).await?;
    prepare_database(&store, config).await?;
    let answering = docker(config).identify().await;
    match action {
        HostsAction::List => {
            let pinned = store.pinned_daemon(DAEMON).await?;
            say(format!("{DAEMON}  {}", config.docker_host))?;
            say(format!("  pinned     {}", pinned.as_ref().map_or("none yet", |identity| identity.as_str())))?;
            match &answering {
                Ok(identity) => say(format!("  answering  {}", identity.as_str()))?,
                Err(failure) => say(format!("  answering  nobody: {failure}"))?,
            }
        }
        HostsAction::Adopt => {
            let identity = answering?;
            let before = store.adopt_daemon(DAEMON, &identity).await?;
            let before = before.map_or("none".to_owned(), |identity| identity.as_str().to_owned());
            say(format!("{DAEMON}  pinned {} in place of {before}", identity.as_str()))?;
        }
    }
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}
