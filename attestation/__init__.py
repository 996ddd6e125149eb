"""The verifier (RATS, RFC 9334): is this TDX evidence genuine, and do we accept it?"""
