//! The Docker adapter against a real daemon, and against sockets that behave like no daemon does on command.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixListener},
    sync::watch,
};
use volume_reaper::{
    cleanup::{Identity, Removal, Volumes},
    config::Endpoint,
    docker::Docker,
    failure::{Dependency, Failure, Verdict},
    volume_name::{ThreadId, VolumeName, VolumeNames},
};

use crate::{
    fault_proxy::FaultProxy,
    proxy::{CountingProxy, HttpRequest},
    scripted_daemon::{Answer, Scripted},
    world::{On, World, server, world},
};

const TIMEOUT: Duration = Duration::from_secs(20);

fn daemon() -> Docker {
    Docker::new(Endpoint::parse(&server("DOCKER_HOST"), None).expect("valid"), TIMEOUT)
}

async fn pinned_daemon() -> Docker {
    let docker = daemon();
    let identity = docker.identify().await.expect("the daemon is there");
    docker.pin(identity);
    docker
}

fn prefix(world: &World) -> VolumeNames {
    VolumeNames::of_prefix(&format!("{}_ws_", world.name)).expect("valid")
}

fn name(world: &World, id: &str) -> VolumeName {
    prefix(world).volume_of(&ThreadId::parse(id).expect("valid"))
}

fn is_down(result: &Result<Removal, Failure>) -> bool {
    matches!(result, Err(Failure { verdict: Verdict::Unavailable(Dependency::Docker), .. }))
}

/// What a daemon says of itself that no test has started.
const INFO: &str = r#"{"ID": "a", "DockerRootDir": "/data"}"#;

/// The adapter of a daemon that says [`INFO`].
fn scripted(endpoint: Endpoint, ping_interval: Duration) -> Docker {
    let docker = Docker::new(endpoint, ping_interval);
    docker.pin(Identity::from_text("a@/data".to_owned()));
    docker
}

/// Answers every request on a TCP port with `response`; returns the endpoint.
async fn answering(response: &'static str) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                let _ = stream.write_all(response.as_bytes()).await;
            }
        }
    });
    Endpoint::parse(&format!("tcp://{address}"), None).expect("valid")
}

fn any_volume() -> VolumeName {
    VolumeNames::of_prefix("ha_ws_").expect("valid").volume_of(&ThreadId::parse("t1").expect("valid"))
}

#[tokio::test]
async fn a_volume_is_removed_and_the_next_time_not_found() {
    let world = world(On::Sqlite).await;
    let docker = pinned_daemon().await;
    world.create_volume("t1").await;
    assert_eq!(docker.remove(&name(&world, "t1")).await, Ok(Removal::Removed));
    // With force this would be indistinguishable from the first answer.
    assert_eq!(docker.remove(&name(&world, "t1")).await, Ok(Removal::NotFound));
}

#[tokio::test]
async fn the_adapter_maps_404_to_not_found() {
    let world = world(On::Sqlite).await;
    assert_eq!(pinned_daemon().await.remove(&name(&world, "never-there")).await, Ok(Removal::NotFound));
}

#[tokio::test]
async fn a_container_that_never_ran_holds_its_volume() {
    let world = world(On::Sqlite).await;
    let docker = pinned_daemon().await;
    world.create_volume("t1").await;
    let container = world.create_container("t1").await;
    let users = vec![container.clone()];
    assert_eq!(docker.remove(&name(&world, "t1")).await, Ok(Removal::Referenced { containers: users }));
    assert!(world.has_volume("t1").await);
    world.remove_container(&container).await;
    assert_eq!(docker.remove(&name(&world, "t1")).await, Ok(Removal::Removed));
}

#[tokio::test]
async fn the_inventory_has_our_volumes_and_who_holds_them() {
    let world = world(On::Sqlite).await;
    for id in ["free", "held"] {
        world.create_volume(id).await;
    }
    let container = world.create_container("held").await;
    // The daemon's filter matches anywhere in a name.
    let other = bollard::models::VolumeCreateRequest {
        name: Some(format!("x{}", world.volume("free"))),
        ..bollard::models::VolumeCreateRequest::default()
    };
    world.docker.create_volume(other).await.expect("created");

    let inventory = pinned_daemon().await.inventory(&prefix(&world)).await.expect("a list");
    assert_eq!(inventory.present, [name(&world, "free"), name(&world, "held")].into());
    assert_eq!(inventory.referenced, [(name(&world, "held"), vec![container])].into());
    assert_eq!(inventory.warnings, [""; 0]);
}

#[tokio::test]
async fn only_the_pinned_daemon_proves_anything() {
    let docker = daemon();
    let absent = VolumeNames::of_prefix("ha_ws_").expect("valid").volume_of(&ThreadId::parse("absent").expect("valid"));
    assert!(docker.has(&absent).await.is_err(), "none is pinned yet");
    docker.pin(Identity::from_text("another daemon".to_owned()));
    let other = docker.has(&absent).await;
    assert_eq!(other.map_err(|failure| failure.verdict), Err(Verdict::Unavailable(Dependency::Docker)));
    assert_eq!(pinned_daemon().await.has(&absent).await, Ok(false));
}

#[tokio::test]
async fn removals_one_after_the_other_share_a_connection() {
    let world = world(On::Sqlite).await;
    let proxy = CountingProxy::start(world.dir.path());
    let docker = Docker::new(Endpoint::parse(&proxy.endpoint(), None).expect("valid"), TIMEOUT);
    docker.pin(docker.identify().await.expect("the daemon is there"));
    for number in 0..20 {
        let id = format!("t{number}");
        world.create_volume(&id).await;
        assert_eq!(docker.remove(&name(&world, &id)).await, Ok(Removal::Removed));
    }
    assert_eq!((proxy.removals(), proxy.connections()), (20, 1));
}

#[tokio::test]
async fn removals_at_once_have_a_connection_each_and_keep_it() {
    let world = world(On::Sqlite).await;
    let (proxy, endpoint) = FaultProxy::docker().await;
    let docker = Docker::new(Endpoint::parse(&endpoint, None).expect("valid"), TIMEOUT);
    docker.pin(docker.identify().await.expect("the daemon is there"));
    let ids: Vec<_> = (0..64).map(|number| format!("t{number}")).collect();
    for id in &ids {
        world.create_volume(id).await;
    }
    for ids in ids.chunks(8) {
        let removals = ids.iter().map(async |id| docker.remove(&name(&world, id)).await);
        let removals = futures_util::future::join_all(removals).await;
        assert!(removals.iter().all(|removal| *removal == Ok(Removal::Removed)), "{removals:?}");
    }
    assert!(proxy.busiest() <= 8, "{}", proxy.busiest());
    assert_eq!(proxy.open(), proxy.busiest(), "none was closed");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_fails_no_removal() {
    let world = world(On::Sqlite).await;
    let (proxy, endpoint) = FaultProxy::docker().await;
    let docker = Docker::new(Endpoint::parse(&endpoint, None).expect("valid"), TIMEOUT);
    docker.pin(docker.identify().await.expect("the daemon is there"));
    for id in ["t1", "t2", "t3"] {
        world.create_volume(id).await;
        assert_eq!(docker.remove(&name(&world, id)).await, Ok(Removal::Removed));
        proxy.cut();
    }
    assert_eq!(docker.remove(&name(&world, "t3")).await, Ok(Removal::NotFound));
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_down() {
    let world = world(On::Sqlite).await;
    let missing = Endpoint::Unix(world.dir.path().join("no.sock").display().to_string());
    let refused = Endpoint::parse("tcp://127.0.0.1:1", None).expect("valid");
    for endpoint in [missing, refused] {
        let removal = scripted(endpoint.clone(), TIMEOUT).remove(&any_volume()).await;
        assert!(is_down(&removal), "{endpoint}: {removal:?}");
    }
}

#[tokio::test]
async fn a_page_that_is_not_found_is_no_missing_volume() {
    let daemon = Scripted::tcp(|_, request| match request {
        "GET /info" => Answer::Say(200, INFO.to_owned()),
        _ => Answer::Say(404, r#"{"message":"page not found"}"#.to_owned()),
    })
    .await;
    let removal = scripted(daemon.endpoint(), TIMEOUT).remove(&any_volume()).await;
    assert_eq!(removal.map_err(|failure| failure.verdict), Err(Verdict::Transient));
}

#[tokio::test]
async fn a_connection_that_is_cut_before_the_answer_is_down() {
    let removal = scripted(answering("").await, TIMEOUT).remove(&any_volume()).await;
    assert!(is_down(&removal), "{removal:?}");
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_never_answers_is_down() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("silent.sock");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let docker = scripted(Endpoint::Unix(path.display().to_string()), TIMEOUT);
    let removal = docker.remove(&any_volume()).await;
    assert!(is_down(&removal), "{removal:?}");
}

#[tokio::test]
async fn a_slow_removal_is_waited_for_while_the_daemon_answers_others() {
    // A removal that is slower than we wait is not failed; the daemon continues with it.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let pings = watch::Sender::new(0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let pings = pings.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(request) = HttpRequest::read(&mut stream).await {
                    let answer = match request.line.as_str() {
                        "GET /info" => format!("200 OK\r\nContent-Length: {}\r\n\r\n{INFO}", INFO.len()),
                        "GET /_ping" => {
                            pings.send_modify(|pings| *pings += 1);
                            "200 OK\r\nContent-Length: 2\r\n\r\nOK".to_owned()
                        }
                        _ => {
                            pings.subscribe().wait_for(|pings| *pings >= 2).await.expect("it is asked");
                            "204 No Content\r\n\r\n".to_owned()
                        }
                    };
                    let answered = stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await;
                    answered.expect("it listens");
                }
            });
        }
    });
    let endpoint = Endpoint::parse(&format!("tcp://{address}"), None).expect("valid");
    let removal = scripted(endpoint, Duration::from_millis(100)).remove(&any_volume()).await;
    assert_eq!(removal, Ok(Removal::Removed));
}
