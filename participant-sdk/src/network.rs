//! How channels are opened. There is one way, but in simulations.

use futures_util::future::BoxFuture;
use tonic::transport::{self, Channel, Endpoint};

/// A network to dial on. For simulations: what it is may change in any release.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Connects now.
    pub connect: fn(Endpoint) -> BoxFuture<'static, Result<Channel, transport::Error>>,
    /// Connects with the first call.
    pub connect_lazy: fn(&Endpoint) -> Channel,
}

impl Network {
    /// The system's.
    pub const SYSTEM: Network = Network {
        connect: |endpoint| Box::pin(async move { endpoint.connect().await }),
        connect_lazy: Endpoint::connect_lazy,
    };
}

/// An address, and the network that it is on.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    endpoint: Endpoint,
    network: Network,
}

impl Address {
    pub(crate) fn new(endpoint: Endpoint, network: Network) -> Address {
        Address { endpoint, network }
    }

    pub(crate) async fn connect(&self) -> Result<Channel, transport::Error> {
        (self.network.connect)(self.endpoint.clone()).await
    }

    pub(crate) fn connect_lazy(&self) -> Channel {
        (self.network.connect_lazy)(&self.endpoint)
    }
}
