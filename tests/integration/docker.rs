//! The Docker adapter against a real daemon, and against sockets that behave like no daemon does on command.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};
use volume_reaper::{
    cleanup::{Removal, Volumes},
    docker::{Docker, Endpoint},
    failure::{Dependency, Failure, Verdict},
    volume_name::{ThreadId, VolumeName, VolumePrefix},
};

use crate::{
    proxy::CountingProxy,
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

fn prefix(world: &World) -> VolumePrefix {
    VolumePrefix::parse(&format!("{}_ws_", world.name)).expect("valid")
}

fn name(world: &World, id: &str) -> VolumeName {
    prefix(world).volume_of(&ThreadId::parse(id).expect("valid"))
}

fn is_down(result: &Result<Removal, Failure>) -> bool {
    matches!(result, Err(Failure { verdict: Verdict::Unavailable(Dependency::Docker), .. }))
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
    VolumePrefix::parse("ha_ws_").expect("valid").volume_of(&ThreadId::parse("t1").expect("valid"))
}

#[tokio::test]
async fn a_volume_is_removed_and_the_next_time_not_found() {
    let world = world(On::Sqlite).await;
    let docker = pinned_daemon().await;
    world.create_volume("t1").await;
    assert_eq!(docker.remove(&name(&world, "t1")).await, Ok(Removal::Removed));
    // D1: with force this would be indistinguishable from the first answer.
    assert_eq!(docker.remove(&name(&world, "t1")).await, Ok(Removal::NotFound));
}

#[tokio::test]
async fn the_adapter_maps_404_to_not_found() {
    let world = world(On::Sqlite).await;
    assert_eq!(pinned_daemon().await.remove(&name(&world, "never-there")).await, Ok(Removal::NotFound));
}

#[tokio::test]
async fn a_container_that_never_ran_holds_its_volume() {
    // D5
    let world = world(On::Sqlite).await;
    let docker = pinned_daemon().await;
    world.create_volume("t1").await;
    let container = world.create_container("t1").await;
    let holders = vec![container.clone()];
    assert_eq!(docker.remove(&name(&world, "t1")).await, Ok(Removal::Referenced { containers: holders }));
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
    // D9: the daemon's filter matches anywhere in a name.
    let other = bollard::models::VolumeCreateRequest {
        name: Some(format!("x{}", world.volume("free"))),
        ..bollard::models::VolumeCreateRequest::default()
    };
    world.docker.create_volume(other).await.expect("created");

    let inventory = pinned_daemon().await.inventory(&prefix(&world)).await.expect("a list");
    let ids = |ids: &[&str]| ids.iter().map(|id| ThreadId::parse(id).expect("valid")).collect();
    assert_eq!(inventory.present, ids(&["free", "held"]));
    assert_eq!(inventory.referenced, [(ThreadId::parse("held").expect("valid"), vec![container])].into());
    assert_eq!(inventory.warnings, [""; 0]);
}

#[tokio::test]
async fn only_the_pinned_daemon_proves_anything() {
    // D20
    let docker = daemon();
    assert!(docker.prove_identity().await.is_err(), "none is pinned yet");
    docker.pin(volume_reaper::docker::Identity::from_text("another daemon".to_owned()));
    let other = docker.prove_identity().await;
    assert_eq!(other.map_err(|failure| failure.verdict), Err(Verdict::Unavailable(Dependency::Docker)));
    assert_eq!(pinned_daemon().await.prove_identity().await, Ok(()));
}

#[tokio::test]
async fn those_who_wait_for_a_proof_of_identity_share_the_next_one() {
    let world = world(On::Sqlite).await;
    let proxy = CountingProxy::start(world.dir.path());
    let docker = Docker::new(Endpoint::parse(&proxy.endpoint(), None).expect("valid"), TIMEOUT);
    docker.pin(docker.identify().await.expect("the daemon is there"));
    let before = proxy.requests().len();
    let proofs = futures_util::future::join_all((0..100).map(|_| docker.prove_identity())).await;
    assert!(proofs.iter().all(Result::is_ok));
    // The first one's answer may be to a question from before the others came.
    assert_eq!(proxy.requests().len() - before, 2);
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_down() {
    let world = world(On::Sqlite).await;
    let missing = Endpoint::Unix(world.dir.path().join("no.sock").display().to_string());
    let refused = Endpoint::parse("tcp://127.0.0.1:1", None).expect("valid");
    for endpoint in [missing, refused] {
        let removal = Docker::new(endpoint.clone(), TIMEOUT).remove(&any_volume()).await;
        assert!(is_down(&removal), "{endpoint}: {removal:?}");
    }
}

#[tokio::test]
async fn a_page_that_is_not_found_is_no_missing_volume() {
    let page = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\
                Connection: close\r\n\r\n{\"message\":\"page not found\"}\n";
    let removal = Docker::new(answering(page).await, TIMEOUT).remove(&any_volume()).await;
    assert_eq!(removal.map_err(|failure| failure.verdict), Err(Verdict::Transient));
}

#[tokio::test]
async fn a_connection_that_is_cut_before_the_answer_is_down() {
    let removal = Docker::new(answering("").await, TIMEOUT).remove(&any_volume()).await;
    assert!(is_down(&removal), "{removal:?}");
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_never_answers_is_down() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("silent.sock");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let docker = Docker::new(Endpoint::Unix(path.display().to_string()), TIMEOUT);
    let removal = docker.remove(&any_volume()).await;
    assert!(is_down(&removal), "{removal:?}");
}

#[tokio::test]
async fn a_slow_removal_is_waited_for_while_the_daemon_answers_others() {
    // D15: a removal that is slower than we wait is not failed; the daemon goes on with it.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut held, mut pings) = (Vec::new(), 0);
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            if request[..length].starts_with(b"DELETE") {
                held.push(stream);
                continue;
            }
            let pong = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK";
            let _ = stream.write_all(pong).await;
            pings += 1;
            if pings == 2 {
                for mut removal in held.drain(..) {
                    let _ = removal.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
                }
            }
        }
    });
    let endpoint = Endpoint::parse(&format!("tcp://{address}"), None).expect("valid");
    let removal = Docker::new(endpoint, Duration::from_millis(100)).remove(&any_volume()).await;
    assert_eq!(removal, Ok(Removal::Removed));
}
