//! What tests of engines share: a network like a job's, a lender on a store of its own, a client in the network.
