//! Two Docker hosts, each with a small disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Stdio},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, sync::Mutex, time::sleep};

use crate::{
    Try,
    others::{as_root, exported},
    servers::{Proxy, SCRIPT, control},
};

/// What a host's disk has.
const DISK_MIB: usize = 96;

pub(crate) struct Daemons {
    /// Each taken by whoever does something to that one.
    pub(crate) turns: [Mutex<()>; 2],
    dirs: [PathBuf; 2],
    pub(crate) sockets: Vec<String>,
    /// What the replicas know as the hosts.
    pub(crate) proxies: Vec<Proxy>,
}

impl Daemons {
    pub(crate) async fn start(base: &Path) -> Try<Self> {
        let dirs = ["docker-1", "docker-2"].map(|name| base.join(name));
        let mut daemons = Self { turns: Default::default(), dirs, sockets: Vec::new(), proxies: Vec::new() };
        for dir in &daemons.dirs {
            let disk = dir.join("docker/data");
            fs::create_dir_all(&disk)?;
            fs::write(dir.join(".servers"), "")?;
            let options = format!("size={DISK_MIB}m");
            as_root(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &disk.display().to_string()]).await?;
            control(dir, "start", &["docker"]).await?;
            control(dir, "import-image", &[]).await?;
            let socket = exported(dir, "DOCKER_HOST").await?.trim_start_matches("unix://").to_owned();
            daemons.proxies.push(Proxy::start(&socket, Duration::ZERO).await?);
            daemons.sockets.push(socket);
        }
        Ok(daemons)
    }

    /// `kill` or `pause`, for so long.
    pub(crate) async fn harm(&self, which: usize, action: &str, lasts: Duration) -> Try {
        control(&self.dirs[which], action, &["docker"]).await?;
        sleep(lasts).await;
        control(&self.dirs[which], "start", &["docker"]).await
    }

    /// Each answers in the other's place.
    pub(crate) async fn swap(&self, lasts: Duration) {
        for (proxy, other) in self.proxies.iter().zip(self.sockets.iter().rev()) {
            proxy.swap(std::slice::from_ref(other));
        }
        sleep(lasts).await;
        for (proxy, own) in self.proxies.iter().zip(&self.sockets) {
            proxy.swap(std::slice::from_ref(own));
        }
    }

    /// Nothing more fits on its disk.
    pub(crate) async fn fill(&self, which: usize, lasts: Duration) -> Try {
        let ballast = self.dirs[which].join("docker/data/ballast");
        let mut file = tokio::fs::File::create(&ballast).await?;
        let mut filled = Ok(());
        // By pages, so that nothing is left.
        for _ in 0..DISK_MIB * 256 {
            filled = file.write_all(&[0; 4096]).await;
            if filled.is_err() {
                break;
            }
        }
        let filled = match filled {
            Ok(()) => file.flush().await,
            Err(error) => Err(error),
        };
        drop(file);
        sleep(lasts).await;
        tokio::fs::remove_file(&ballast).await?;
        if filled.is_ok() { Err("the small disk takes more than it has".into()) } else { Ok(()) }
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let _ = process::Command::new(SCRIPT).arg("remove").arg(dir).stderr(Stdio::null()).status();
        }
    }
}
