-- Run by the image of PostgreSQL on its first start alone: a role and its databases for each server. What comes later is
-- added by hand, with psql in the container of PostgreSQL. Passwords come from the environment, and stand in no command line.
\getenv prefect_password PREFECT_DB_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD
CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_users OWNER mlflow;
REVOKE CONNECT ON DATABASE prefect, mlflow, mlflow_users FROM PUBLIC;
