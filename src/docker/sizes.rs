//! How much is in our volumes, by the daemon's own disk usage: asked now and then, since it walks through every file.
//!
//! The client library knows only the newest form of the answer, which daemons up to 28 do not give.

use std::{collections::HashMap, pin::Pin};

use bollard::errors::Error;
use hyper::{
    Response,
    body::{Body, Incoming},
};
use serde::Deserialize;

use super::{Docker, LONGEST_REMOVAL, proof::Proves};
use crate::{failure::Failure, volume_name::VolumeNames};

/// Volumes alone, where the daemon can tell them apart (from API 1.42 on), and each by itself (from 1.52 on).
const DISK_USAGE: &str = "/system/df?type=volume&verbose=true";
/// An answer that is longer than this is not read to its end: some hundred thousand volumes.
const MOST_BYTES: usize = 256 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DiskUsage {
    /// Up to API 1.51.
    volumes: Option<Vec<Measured>>,
    /// From 1.52 on.
    #[serde(alias = "VolumesUsage")]
    volume_usage: Option<Items>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Items {
    items: Option<Vec<Measured>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Measured {
    name: String,
    usage_data: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    /// -1 is not known.
    size: i64,
}

/// The sizes of our volumes that an answer has, in bytes.
fn sizes_of(answer: &[u8], names: &VolumeNames) -> Result<HashMap<String, u64>, serde_json::Error> {
    let DiskUsage { volumes, volume_usage } = serde_json::from_slice(answer)?;
    let measured = volumes.into_iter().chain(volume_usage.and_then(|usage| usage.items)).flatten();
    let ours = measured.filter(|volume| names.find(&volume.name).is_some());
    Ok(ours.filter_map(|volume| Some((volume.name, u64::try_from(volume.usage_data?.size).ok()?))).collect())
}

impl Docker {
    /// Asks how much is in each of our volumes, and remembers it. Returns how many have a size.
    pub async fn measure(&self, names: &VolumeNames) -> Result<usize, Failure> {
        let link = self.link()?;
        let usage = async { whole(link.get(DISK_USAGE).await?).await };
        let answer = self.call("disk_usage", LONGEST_REMOVAL, usage).await?;
        self.prove(&link, Proves::One(link.connection())).await?;
        let sizes = sizes_of(&answer, names)
            .map_err(|error| Failure::transient(format!("docker at {}: disk usage: {error}", self.endpoint)))?;
        let measured = sizes.len();
        *self.sizes.lock() = sizes;
        Ok(measured)
    }
}

async fn whole(response: Response<Incoming>) -> Result<Vec<u8>, Error> {
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MOST_BYTES {
            return Err(std::io::Error::other("the answer is too long").into());
        }
    }
    if status.is_success() {
        return Ok(bytes);
    }
    let message = String::from_utf8_lossy(&bytes).into_owned();
    Err(Error::DockerResponseServerError { status_code: status.as_u16(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(answer: &str) -> Vec<(String, u64)> {
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let mut sizes: Vec<_> = sizes_of(answer.as_bytes(), &names).expect("an answer").into_iter().collect();
        sizes.sort();
        sizes
    }

    #[test]
    fn both_forms_of_the_answer_are_read_and_what_is_not_known_is_not() {
        let volumes = r#"[{"Name":"ha_ws_a","UsageData":{"Size":7,"RefCount":0}},
                          {"Name":"ha_ws_b","UsageData":null},
                          {"Name":"ha_ws_c","UsageData":{"Size":-1,"RefCount":0}},
                          {"Name":"other","UsageData":{"Size":9}}]"#;
        let expected = [("ha_ws_a".to_owned(), 7)];
        assert_eq!(sizes(&format!(r#"{{"LayersSize":1,"Volumes":{volumes}}}"#)), expected);
        assert_eq!(sizes(&format!(r#"{{"VolumeUsage":{{"TotalSize":7,"Items":{volumes}}}}}"#)), expected);
        assert_eq!(sizes("{}"), []);
    }
}
