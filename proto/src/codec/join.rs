//! What is said by and to somebody who joins, or whose certificate is renewed.

use super::parts::{Fault, Wire, fields, put, take, variants, words};
use crate::join::{JoinRequest, JoinResponse, JoinRole, JoinSecret, RenewRequest, RenewResponse};

words!(JoinRole as JoinRole { Cluster, Worker, Relay });

impl Wire for JoinSecret {
    type Message = Vec<u8>;

    fn put(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn take(message: Vec<u8>) -> Result<Self, Fault> {
        <[u8; 32]>::take(message).map(Self)
    }
}

fields!(JoinRequest as JoinRequest { secret: value, role: value, name: value, csr: value });

variants!(JoinResponse as JoinResponse.response(join_response::Response):
    {
        Admitted as JoinAdmitted { chain: list, ca: value }
        Refused as JoinRefused { text: value }
    }
    {}
);

fields!(RenewRequest as RenewRequest { role: value, name: value, csr: value });

variants!(RenewResponse as RenewResponse.response(renew_response::Response):
    {
        Renewed as RenewedChain { chain: list }
        Refused as JoinRefused { text: value }
    }
    {}
);
