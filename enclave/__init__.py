"""The attester (RATS, RFC 9334): what the inside of a trust domain offers."""
