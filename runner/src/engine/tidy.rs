//! What a job left in its engine and the next one must not find, removed by the engine itself before it is stopped: its
//! databases name it, so that taking the folders alone would leave the records.

use super::health::PLAIN_PORT;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, PruneBuildOptionsBuilder, RemoveContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long all of it may take; what is left then costs disk, not correctness.
const WITHIN: Duration = Duration::from_secs(15);

/// Removes containers, whose files would be copied for every later engine, and build contexts, which are as large as
/// the sources and sent anew by every build. Images, build cache and cache mounts stay.
pub(super) async fn tidy(address: Ipv4Addr) {
    let all = async {
        let url = format!("tcp://{address}:{PLAIN_PORT}");
        let docker =
            Docker::connect_with_http(&url, WITHIN.as_secs(), API_DEFAULT_VERSION)?.negotiate_version().await?;
        let every = ListContainersOptionsBuilder::default().all(true).build();
        for container in docker.list_containers(Some(every)).await? {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            docker.remove_container(&container.id.unwrap_or_default(), Some(options)).await?;
        }
        let contexts = HashMap::from([("type".to_owned(), vec!["source.local".to_owned()])]);
        docker.prune_build(Some(PruneBuildOptionsBuilder::default().filters(&contexts).build())).await?;
        Ok::<(), bollard::errors::Error>(())
    };
    match tokio::time::timeout(WITHIN, all).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%address, %error, "what the job left in its engine is not all removed"),
        Err(_) => tracing::warn!(%address, "removing what the job left in its engine takes too long"),
    }
}
